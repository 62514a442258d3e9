"""The model card of `nano`, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from demo.nano.training import Effort


class Measured(NamedTuple):
    """How good the weights are."""

    psnr: Mapping[str, float]
    """dB of the reconstruction, by clip."""
    followed: int
    asked: int
    minutes: float
    """Processor time of training and measuring."""


FILES = {
    "dit": ("transformer", "weights/dit.safetensors"),
    "encoder": ("encoder", "weights/encoder.safetensors"),
    "decoder": ("decoder", "weights/decoder.safetensors"),
    "t5": ("T5 encoder over bytes", "weights/t5/"),
}


def card(
    parts: Mapping[str, nn.Module],
    effort: Effort,
    measured: Measured,
    *,
    held: str,
    transformer_only: bool,
) -> str:
    """Markdown. With `transformer_only` the other parts are those of an earlier run of the whole."""
    sizes = "\n".join(
        f"| {FILES[name][0]} | {sum(each.numel() for each in part.parameters()) / 1e6:.2f} M | `{FILES[name][1]}` |"
        for name, part in parts.items()
    )
    clips = "\n".join(
        f"| {name}{' (held)' if name == held else ''} | {value:.1f} dB |"
        for name, value in measured.psnr.items()
    )
    return _TEXT.format(
        sizes=sizes, clips=clips, held=held or "none", measured=measured, effort=effort,
        share=f"{measured.followed} of {measured.asked}", part=_TRANSFORMER_ONLY if transformer_only else "It",
    )  # fmt: skip


_TRANSFORMER_ONLY = """\
The autoencoder and the text encoder are kept from an earlier
  run of the whole, the transformer was trained anew with them (`make nano NANO_ARGS=--transformer-only`), which"""

_TEXT = """\
# nano

The architecture of Mochi-1 in less than 10 MB: every layer, name and rule is that of the 10 B model, only the widths and depths are
smaller (`mochi_trainer.presets.catalogue`). It exists to try the whole path on a CPU; its videos are 112x64 sketches.

| part | parameters | file |
|---|---|---|
{sizes}

- **License** Apache-2.0. **Type** bfloat16 (`pos_frequencies` float32).
- **Data** clips drawn in code (`demo/nano/clips.py`): a circle, square or diamond of one of six colours moves in one of four directions over one of
  three grounds, with the caption "a red circle moves right over a black ground"; sliding soft noise (autoencoder only); and the real clips
  of the demo but one, {held}, which is measured and never trained on (`demo/nano/real.py`).
  The held clip gave no gradient, but it is no blind test: of the demo's three it was taken because it is the easiest to reconstruct, and its figure
  and the count below were watched while the recipe was chosen.
- **Training** `make nano` (seed {effort.seed}): {effort.text_steps} steps of the text encoder (what does a caption say?),
  {effort.autoencoder_steps} + {effort.colour_steps} of the autoencoder, {effort.transformer_steps} of the transformer, of {effort.batch} clips each. {part} took {measured.minutes:.0f} minutes of processor
  time, most of it on one core. The same code, machine and versions make the same weights again. This card is written by the same command.

| reconstruction of the first 13 frames, 112x64 | PSNR |
|---|---|
{clips}

Samples (20 steps, guidance 6) have the colour and the direction of motion of their caption in {share} seeds, counted by
`demo/nano/following.py`, which does not see the caption.

- **Limits** It knows coloured shapes and has seen two real clips. Anything else comes out as something of these. Captions are read as bytes,
  at most 256.
"""
