"""The seam that tiles leave in real clips, and what they cost: `python tests/bench/vae_tiles.py`.

Each clip is encoded and decoded whole and in tiles, with the weights of `nano`. "Apart" are tiles that are decoded by
themselves and laid side by side, the plain way, to show that the measure sees a seam. Both take turns in one process with
one thread, and CPU time is counted. On a GPU the transfer to host memory comes on top; here there is none.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from demo.clips import bundled
from mochi_trainer.vae import Decoder, Encoder, decode_tiled, encode_tiled, to_tensor
from mochi_trainer.vae.latents import SPATIAL
from mochi_trainer.vae.sheets import tiles
from mochi_trainer.video import Cut, read_clip
from mochi_trainer.weights import load_decoder, load_encoder

FRAMES, HEIGHT, WIDTH = 13, 128, 224
TILE = (64, 80)
BORDER = 8
"""Pixels on each side of a line between tiles that count as border."""

GREY = 127.5
"""Levels of 8 bits to 1 in a video with values in [-1, 1]."""

Way = Callable[[Encoder, Decoder, Tensor], Tensor]


def whole(encoder: Encoder, decoder: Decoder, video: Tensor) -> Tensor:
    return decoder(encoder(video).mean)


def tiled(encoder: Encoder, decoder: Decoder, video: Tensor) -> Tensor:
    return decode_tiled(decoder, encode_tiled(encoder, video, tile=TILE).mean, tile=TILE)


def apart(encoder: Encoder, decoder: Decoder, video: Tensor) -> Tensor:
    z, out = encoder(video).mean, torch.empty_like(video)
    for tile in tiles(HEIGHT // SPATIAL, WIDTH // SPATIAL, *(side // SPATIAL for side in TILE)):
        top, bottom, left, right = (side * SPATIAL for side in tile)
        part = z[..., tile.top : tile.bottom, tile.left : tile.right]
        out[..., top:bottom, left:right] = decoder(part.contiguous())
    return out


def timed(way: Way, encoder: Encoder, decoder: Decoder, video: Tensor) -> tuple[Tensor, float]:
    began = time.process_time()
    out = way(encoder, decoder, video)
    return out.float(), time.process_time() - began


def at_border() -> Tensor:
    """Which pixels (H, W) lie at a line between two tiles."""
    marks = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for line in range(TILE[0], HEIGHT, TILE[0]):
        marks[line - BORDER : line + BORDER] = True
    for line in range(TILE[1], WIDTH, TILE[1]):
        marks[:, line - BORDER : line + BORDER] = True
    return marks


def psnr(ours: Tensor, reference: Tensor) -> float:
    """In dB, of videos with values in [-1, 1]; endless when they are equal."""
    error = float((ours - reference).double().square().mean())
    return 10 * math.log10(4 / error) if error else math.inf


def lines(name: str, video: Tensor, encoder: Encoder, decoder: Decoder) -> Iterator[str]:
    reference, seconds = timed(whole, encoder, decoder, video)
    marks, dtype = at_border(), str(encoder.output_proj.weight.dtype).removeprefix("torch.")
    for way in (tiled, apart):
        ours, other = timed(way, encoder, decoder, video)
        away = (ours - reference).abs() * GREY
        yield (
            f"| {name} | {dtype} | {way.__name__} | {psnr(ours, reference):.1f} dB | {away[..., marks].max():.2g} "
            f"| {away[..., ~marks].max():.2g} | {other / seconds:.2f} |"
        )


def main() -> None:
    """Print a line for each clip, type and way."""
    torch.set_num_threads(1)
    sys.stdout.write(
        f"{FRAMES} x {HEIGHT} x {WIDTH}, tiles of {TILE[0]} x {TILE[1]}; differences in levels of 255\n"
        "| clip | type | tiles | PSNR | largest at borders | elsewhere | time to whole |\n|---|---|---|---|---|---|---|\n"
    )
    encoder, decoder = load_encoder("nano"), load_decoder("nano")
    for dtype in (torch.float32, torch.bfloat16):
        models = copy.deepcopy(encoder).to(dtype), copy.deepcopy(decoder).to(dtype)
        for clip in bundled():
            cut = Cut(frames=FRAMES, least=FRAMES, fps=30, width=WIDTH, height=HEIGHT)
            frames = read_clip(clip.path, cut).frames
            with torch.inference_mode():
                for line in lines(clip.name, to_tensor(frames), *models):
                    sys.stdout.write(line + "\n")
                    sys.stdout.flush()
    sys.stdout.write("again: python tests/bench/vae_tiles.py\n")


if __name__ == "__main__":
    main()
