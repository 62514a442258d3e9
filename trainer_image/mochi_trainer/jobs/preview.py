"""The command preview: the videos of the command sample, from the newest checkpoint of a training that goes on.

It reads what the training has stored and writes a folder of its own; the training knows nothing of it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from mochi_api import layout
from mochi_api.outcomes import SampleResult
from mochi_api.runfile import RunFile
from mochi_trainer.jobs.attention_backend import sampling_backend
from mochi_trainer.jobs.composing import lora_params
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.sample import parts_of, sampled, settings_of
from mochi_trainer.jobs.sampling import Settings, stored
from mochi_trainer.jobs.tuned import dit_so_far
from mochi_trainer.model import DiT
from mochi_trainer.model.attention_choice import use
from mochi_trainer.parallel.devices import compute_type
from mochi_trainer.storage import Store, open_store
from mochi_trainer.train.saved_weights import Saved


def execute(run: RunFile) -> Finished:
    """Make sample videos from the newest complete checkpoint; the same seed and prompts as those after the training.

    Raises StorageError when there is no checkpoint that can be used, MissingObjectError when there is no caption,
    DeviceUnavailableError, OutOfMemoryError, and what the stores raise.
    """
    store, settings = open_store(run.locations.run, run.s3), settings_of(run, parts_of(run))
    saved: Saved | None = None

    def load() -> DiT:
        nonlocal saved
        model, saved = _model(run, store, settings)
        return model

    made = sampled(run, settings, load)
    assert saved is not None, "the model is loaded before the first video"
    prefix = layout.preview("", saved.step)
    with tempfile.TemporaryDirectory(prefix="mochi-preview-") as folder:
        samples = [
            stored(
                frames,
                layout.join(prefix, f"sample-{number:02d}"),
                prompt.text,
                settings,
                store=store,
                root=run.locations.run,
                folder=Path(folder),
            )
            for number, (prompt, frames) in enumerate(made)
        ]
    described = {"step": saved.step, "checkpoint": saved.address, "samples": samples}
    store.write_bytes(layout.join(prefix, layout.SAMPLES), json.dumps(described, ensure_ascii=False).encode())
    return Finished(
        result=SampleResult(sampleURIs=[sample["video"] for sample in samples], step=saved.step),
        message=f"made {len(samples)} sample video{'' if len(samples) == 1 else 's'} of step {saved.step}",
    )


def _model(run: RunFile, store: Store, settings: Settings) -> tuple[DiT, Saved]:
    """The transformer so far, with the attention backend that its shapes passed on."""
    dtype = compute_type(settings.device)
    backend = sampling_backend(settings, dtype)  # needs memory of its own, so before the weights
    model, saved = dit_so_far(
        run, store, settings.source, lora_params(run), device=settings.device, dtype=dtype
    )
    use(model, backend)
    return model, saved
