"""From prompts and loaded weights to videos: what a run's samples and samples by hand have in common.

Shapes: B = 1; C, T, H, W as in `mochi_trainer.vae`; L tokens, K text features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mochi_api import layout
from mochi_trainer.errors import NonFiniteLossError
from mochi_trainer.flow import trajectory
from mochi_trainer.model import DiT
from mochi_trainer.parallel.devices import compute_type
from mochi_trainer.presets import preset_named
from mochi_trainer.seeds import stream
from mochi_trainer.storage import Store
from mochi_trainer.vae import decode_clip, denormalise, latent_shape, to_frames
from mochi_trainer.video import contact_sheet, encode_mp4
from mochi_trainer.video.reading import Frames
from mochi_trainer.weights import Source, load_decoder, load_text_encoder

log = logging.getLogger(__name__)

SHEET_COLUMNS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How videos are made."""

    preset: str
    source: Source | None
    """Where the weights are, for `weights.load_*`."""
    device: torch.device
    frames: int
    width: int
    height: int
    fps: int
    seed: int
    guidance: float
    sigmas: Sequence[float]
    """Noise levels from 1 to 0."""

    @property
    def steps(self) -> int:
        """Euler steps."""
        return len(self.sigmas) - 1


class EncodedPrompt(NamedTuple):
    """A prompt and its features (L, K) on the CPU."""

    text: str
    features: Tensor


class Moment(NamedTuple):
    """How far the sampling is; both count from 1."""

    video: int
    videos: int
    step: int
    steps: int


Told = Callable[[Moment], None]
"""Is told of every step."""


def encoded_prompts(settings: Settings, texts: Sequence[str]) -> list[EncodedPrompt]:
    """The prompts with their features; the text encoder is gone from memory afterwards."""
    device = settings.device
    encoder = load_text_encoder(settings.preset, settings.source, device=device, dtype=compute_type(device))
    encoded = encoder.encode(texts)
    for text, each in zip(texts, encoded, strict=True):
        if each.truncated:
            log.warning(
                "the prompt has %d tokens and loses what follows %d: %.60s", each.tokens, each.count, text
            )
    return [EncodedPrompt(text, each.features.cpu()) for text, each in zip(texts, encoded, strict=True)]


def videos(
    load: Callable[[], DiT], prompts: Sequence[EncodedPrompt], settings: Settings, told: Told
) -> Iterator[Frames]:
    """The video of each prompt, (T, H, W, 3) uint8; the same seed and place in the list give the same video.

    Raises NonFiniteLossError when the numbers of one are not finite: it would be black.
    The transformer that `load` brings is gone from memory before the decoder comes.
    """
    return _decoded(_all_latents(load(), prompts, settings, told), settings)


def _all_latents(
    model: DiT, prompts: Sequence[EncodedPrompt], settings: Settings, told: Told
) -> list[Tensor]:
    sampled = []
    for number, prompt in enumerate(prompts):
        for step, z in enumerate(_latents(model, prompt, settings, number), 1):  # noqa: B007  # the last one is kept
            told(Moment(number + 1, len(prompts), step, settings.steps))
        if not bool(torch.isfinite(z).all()):
            raise NonFiniteLossError(
                f"video {number + 1} of {len(prompts)} is not finite after {settings.steps} steps with guidance "
                f"{settings.guidance:g}: {prompt.text[:60]!r}",
                action="take an earlier checkpoint of the training, a smaller weight of the LoRA, or less guidance",
            )
        sampled.append(z)
    return sampled


def _latents(model: DiT, prompt: EncodedPrompt, settings: Settings, number: int) -> Iterator[Tensor]:
    """The latents (1, C, T, H, W), normalised, in float32, after each step."""
    shape = (
        model.params.latent_channels,
        *latent_shape(settings.frames, settings.height, settings.width),
    )
    noise = torch.randn(1, *shape, generator=stream(settings.seed, "sample", step=number)).to(settings.device)
    return trajectory(model, prompt.features, noise, settings.sigmas, guidance=settings.guidance)


@torch.inference_mode()
def _decoded(latents: Sequence[Tensor], settings: Settings) -> Iterator[Frames]:
    device, preset = settings.device, settings.preset
    decoder = load_decoder(preset, settings.source, device=device, dtype=compute_type(device))
    for z in latents:
        yield to_frames(decode_clip(decoder, denormalise(z, preset_named(preset).latents)))


def stored(
    frames: Frames, name: str, prompt: str, settings: Settings, *, store: Store, root: str, folder: Path
) -> dict[str, Any]:
    """Store MP4 and contact sheet as `name`; return their addresses below `root` with the prompt. `folder` is for drafts."""
    path = folder / "sample.mp4"
    encode_mp4(frames, path, fps=settings.fps)
    store.put(path, f"{name}.mp4")
    store.write_bytes(f"{name}.png", contact_sheet(frames, SHEET_COLUMNS))
    return {
        "prompt": prompt,
        "video": layout.join(root, f"{name}.mp4"),
        "sheet": layout.join(root, f"{name}.png"),
        "seed": settings.seed,
    }
