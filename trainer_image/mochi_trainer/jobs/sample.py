"""The command sample: one video for each prompt from the tuned weights, with a contact sheet."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mochi_api import layout
from mochi_api.outcomes import SampleResult
from mochi_api.runfile import RunFile
from mochi_trainer.data import Dataset
from mochi_trainer.flow import Prompt, euler, guided, linear_quadratic_schedule
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.model_files import model_folder
from mochi_trainer.jobs.pixels import to_frames
from mochi_trainer.jobs.tuned import tuned_dit
from mochi_trainer.model import DiT
from mochi_trainer.parallel.devices import compute_type, device_for
from mochi_trainer.presets import Part, load_decoder, load_text_encoder, preset_named
from mochi_trainer.seeds import stream
from mochi_trainer.storage import Store, open_store
from mochi_trainer.vae import denormalise, latent_shape
from mochi_trainer.video import contact_sheet, encode_mp4

log = logging.getLogger(__name__)

LOG_SECONDS = 5.0
SHEET_COLUMNS = 4


class EncodedPrompt(NamedTuple):
    """A prompt and its features (L, K) on the CPU."""

    text: str
    features: Tensor


def execute(run: RunFile) -> Finished:
    """Make the sample videos; the same seed gives the same videos.

    Raises MissingObjectError when there is no tuned model or no caption, DeviceUnavailableError, OutOfMemoryError, and
    what the stores raise.
    """
    device, store = device_for(_gpus(run)), open_store(run.locations.run, run.s3)
    with tempfile.TemporaryDirectory(prefix="mochi-sample-") as name:
        folder = Path(name)
        source = model_folder(run, _parts(run), folder)
        prompts = _prompts(run, source, device)
        latents = _all_latents(run, store, source, folder, prompts, device)
        videos = _decoded(run, source, latents, device)
        samples = [
            _stored(run, store, folder, prompt.text, number, video)
            for number, (prompt, video) in enumerate(zip(prompts, videos, strict=True))
        ]
    return Finished(
        result=SampleResult(sampleURIs=[sample["video"] for sample in samples]),
        message=f"made {len(samples)} sample video{'' if len(samples) == 1 else 's'}",
        details={"samples": samples},
    )


def _gpus(run: RunFile) -> int:
    usual = 0 if run.model.preset == "nano" else 1
    return usual if run.sampling.gpus is None else run.sampling.gpus


def _parts(run: RunFile) -> list[Part]:
    """The parts of the base model that are needed besides what training left."""
    parts: list[Part] = ["decoder"]
    if run.mode == "lora":
        parts.append("dit")
    if run.sampling.prompts:
        parts.append("t5")
    return parts


def _prompts(run: RunFile, source: Path | None, device: torch.device) -> list[EncodedPrompt]:
    """The run's prompts; without any the first caption of the dataset, whose features are in the cache."""
    texts = run.sampling.prompts
    if not texts:
        with Dataset.open(run) as dataset:
            return [EncodedPrompt(dataset.captions[0], dataset.sample(0).text.features)]
    encoder = load_text_encoder(run.model.preset, source, device=device, dtype=compute_type(device))
    encoded = encoder.encode(texts)
    for text, each in zip(texts, encoded, strict=True):
        if each.truncated:
            log.warning("the prompt is longer than 256 tokens and loses its end: %.60s", text)
    return [EncodedPrompt(text, each.features.cpu()) for text, each in zip(texts, encoded, strict=True)]


def _all_latents(
    run: RunFile,
    store: Store,
    source: Path | None,
    folder: Path,
    prompts: Sequence[EncodedPrompt],
    device: torch.device,
) -> list[Tensor]:
    """The sampled latents of each prompt; the transformer is gone from memory afterwards."""
    model = tuned_dit(run, store, source, folder / "tuned", device=device, dtype=compute_type(device))
    return [
        _latents(run, model, prompt, number, len(prompts), device) for number, prompt in enumerate(prompts)
    ]


@torch.inference_mode()
def _decoded(
    run: RunFile, source: Path | None, latents: Sequence[Tensor], device: torch.device
) -> Iterator[Tensor]:
    """The videos (1, 3, T, H, W) of normalised latents, one after the other."""
    preset = run.model.preset
    decoder = load_decoder(preset, source, device=device, dtype=compute_type(device))
    for z in latents:
        yield decoder(denormalise(z, preset_named(preset).latents))


@torch.inference_mode()
def _latents(
    run: RunFile, model: DiT, prompt: EncodedPrompt, number: int, count: int, device: torch.device
) -> Tensor:
    """The sampled latents (1, C, T, H, W), normalised, in float32."""
    spec, size = run.sampling, run.preprocessing
    shape = (model.params.latent_channels, *latent_shape(size.frames, size.height, size.width))
    z = torch.randn(1, *shape, generator=stream(spec.seed, "sample", step=number)).to(device)
    text = prompt.features[None].to(device)
    velocity = guided(
        model, Prompt(text), Prompt(text[:, :0]), float(spec.guidance), batched=device.type == "cuda"
    )
    next_line = 0.0
    for step, z_next in enumerate(euler(velocity, z, linear_quadratic_schedule(spec.steps)), 1):
        z = z_next
        if time.monotonic() >= next_line or step == spec.steps:
            next_line = time.monotonic() + LOG_SECONDS
            log.info("video %d of %d: step %d of %d", number + 1, count, step, spec.steps)
    return z


def _stored(
    run: RunFile, store: Store, folder: Path, prompt: str, number: int, video: Tensor
) -> dict[str, Any]:
    """Store MP4 and contact sheet of a video (1, 3, T, H, W); return their addresses with the prompt, for the report."""
    frames = to_frames(video)
    name = f"samples/sample-{number:02d}"
    path = folder / "sample.mp4"
    encode_mp4(frames, path, fps=run.preprocessing.fps)
    store.put(path, f"{name}.mp4")
    store.write_bytes(f"{name}.png", contact_sheet(frames, SHEET_COLUMNS))
    return {
        "prompt": prompt,
        "video": layout.join(run.locations.run, f"{name}.mp4"),
        "sheet": layout.join(run.locations.run, f"{name}.png"),
        "seed": run.sampling.seed,
    }
