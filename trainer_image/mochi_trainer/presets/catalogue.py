"""The sizes of each preset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiTParams
from mochi_trainer.vae import MOCHI_1_STATISTICS, DecoderParams, EncoderParams, LatentStatistics

PresetName = Literal["mochi-1", "nano"]

NANO_FOLDER = Path(__file__).parent / "nano" / "weights"
"""The weights of `nano` in this package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One model: the sizes of its parts and the statistics of its latents."""

    name: PresetName
    dit: DiTParams
    encoder: EncoderParams
    decoder: DecoderParams
    latents: LatentStatistics
    """For `mochi_trainer.vae.normalise` and `denormalise`."""
    packaged: Path | None
    """Weights that come with this package; None when the user has to give a source."""
    byte_tokens: bool
    """Whether captions are read as bytes instead of T5's vocabulary."""


NANO_DIT = DiTParams(depth=3, visual_width=192, text_width=96, heads=4, text_feature_width=64)
"""What other tools cannot set is that of the published model; both widths are multiples of 96, for only then do Diffusers,
which does not round the hidden width of an MLP, and the published code, which does, agree on it."""

NANO_ENCODER = EncoderParams(widths=(16, 32, 64, 80), blocks=(0, 1, 1, 1, 1), groups=8, head_width=16)
NANO_DECODER = DecoderParams(widths=(80, 64, 32, 16), blocks=(1, 1, 1, 1, 0), groups=8)


def nano_statistics() -> LatentStatistics:
    """Mean and standard deviation of the latents of `nano`, kept beside its weights."""
    raw = json.loads((NANO_FOLDER / "latents.json").read_text())
    return LatentStatistics(mean=tuple(raw["mean"]), std=tuple(raw["std"]))


def mochi_1() -> Preset:
    """The published model."""
    return Preset(
        name="mochi-1",
        dit=DiTParams(),
        encoder=EncoderParams(),
        decoder=DecoderParams(),
        latents=MOCHI_1_STATISTICS,
        packaged=None,
        byte_tokens=False,
    )


def nano() -> Preset:
    """The small model."""
    return Preset(
        name="nano",
        dit=NANO_DIT,
        encoder=NANO_ENCODER,
        decoder=NANO_DECODER,
        latents=nano_statistics(),
        packaged=NANO_FOLDER,
        byte_tokens=True,
    )


PRESETS = {"mochi-1": mochi_1, "nano": nano}
"""Preset names and how each is made."""


SIZES: Mapping[str, tuple[int, int, int, int]] = {
    "mochi-1": (37, 848, 480, 30),
    "nano": (13, 112, 64, 30),
}
"""Frames, width, height and frames per second of a video by each preset, unless they are given."""


def preset_named(name: str) -> Preset:
    """The preset; raise `InvalidInputError` when there is none of this name."""
    if name not in PRESETS:
        raise InvalidInputError(f"model.preset must be one of {', '.join(PRESETS)}, got {name}")
    return PRESETS[name]()
