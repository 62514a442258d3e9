"""The command sample: one video for each prompt from the tuned weights, with a contact sheet."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mochi_api.outcomes import SampleResult
from mochi_api.runfile import RunFile
from mochi_trainer.data import Dataset
from mochi_trainer.flow import linear_quadratic_schedule
from mochi_trainer.jobs.attention_backend import sampling_backend
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.sampling import EncodedPrompt, Moment, Settings, encoded_prompts, stored, videos
from mochi_trainer.jobs.tuned import tuned_dit
from mochi_trainer.logs import LINE_SECONDS
from mochi_trainer.model import DiT
from mochi_trainer.model.attention_choice import use
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.devices import compute_type, device_for
from mochi_trainer.storage import Store, open_store
from mochi_trainer.video.reading import Frames
from mochi_trainer.weights import Part
from mochi_trainer.weights.of_run import model_source

log = logging.getLogger(__name__)


def execute(run: RunFile) -> Finished:
    """Make the sample videos; the same seed gives the same videos.

    Raises MissingObjectError when there is no tuned model or no caption, DeviceUnavailableError, OutOfMemoryError, and
    what the stores raise.
    """
    store, settings = open_store(run.locations.run, run.s3), settings_of(run, parts_of(run))
    with tempfile.TemporaryDirectory(prefix="mochi-sample-") as name:
        folder = Path(name)
        made = sampled(run, settings, lambda: _model(run, store, settings, folder / "tuned"))
        samples = [
            stored(
                frames,
                f"samples/sample-{number:02d}",
                prompt.text,
                settings,
                store=store,
                root=run.locations.run,
                folder=folder,
            )
            for number, (prompt, frames) in enumerate(made)
        ]
    return Finished(
        result=SampleResult(sampleURIs=[sample["video"] for sample in samples]),
        message=f"made {len(samples)} sample video{'' if len(samples) == 1 else 's'}",
        details={"samples": samples},
    )


def settings_of(run: RunFile, parts: Sequence[Part]) -> Settings:
    """How the videos of a run are made; `parts` of the base are needed.

    Raises DeviceUnavailableError, MissingObjectError when a part is not there, InvalidInputError.
    """
    return Settings(
        preset=run.model.preset,
        source=model_source(run, parts),
        device=device_for(_gpus(run)),
        frames=run.preprocessing.frames,
        width=run.preprocessing.width,
        height=run.preprocessing.height,
        fps=run.preprocessing.fps,
        seed=run.sampling.seed,
        guidance=float(run.sampling.guidance),
        sigmas=linear_quadratic_schedule(run.sampling.steps),
    )


def sampled(
    run: RunFile, settings: Settings, load: Callable[[], DiT]
) -> Iterator[tuple[EncodedPrompt, Frames]]:
    """The run's prompts with their videos, from the transformer that `load` brings, which happens at once."""
    prompts = _prompts(run, settings)
    return zip(prompts, videos(load, prompts, settings, logged()), strict=True)


def _gpus(run: RunFile) -> int:
    usual = 0 if run.model.preset == "nano" else 1
    return usual if run.sampling.gpus is None else run.sampling.gpus


def parts_of(run: RunFile) -> list[Part]:
    """The parts of the base model that are needed besides what training left."""
    parts: list[Part] = ["decoder"]
    if run.mode == "lora":
        parts.append("dit")
    if run.sampling.prompts:
        parts.append("t5")
    return parts


def _model(run: RunFile, store: Store, settings: Settings, folder: Path) -> DiT:
    """What training left, with the attention backend that its shapes passed on."""
    dtype = compute_type(settings.device)
    backend = sampling_backend(settings, dtype)  # needs memory of its own, so before the weights
    model = tuned_dit(run, store, settings.source, folder, device=settings.device, dtype=dtype)
    use(model, backend)
    return model


def _prompts(run: RunFile, settings: Settings) -> list[EncodedPrompt]:
    """The run's prompts; without any the first caption of the dataset, whose features are in the cache."""
    if run.sampling.prompts:
        return encoded_prompts(settings, run.sampling.prompts)
    with Dataset.open(run) as dataset:
        return [EncodedPrompt(dataset.captions[0], dataset.sample(0).text.features)]


def logged() -> Callable[[Moment], None]:
    """Tells the log how far the sampling is, at most every few seconds and after the last step."""
    next_line = 0.0

    def told(moment: Moment) -> None:
        nonlocal next_line
        PROCESS.worked((moment.video - 1) * moment.steps + moment.step, moment.videos * moment.steps)
        if time.monotonic() >= next_line or moment.step == moment.steps:
            next_line = time.monotonic() + LINE_SECONDS
            log.info("video %d of %d: step %d of %d", *moment)

    return told
