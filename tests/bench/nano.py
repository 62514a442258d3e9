"""How good `nano` is, and what a LoRA does to it: `python tests/bench/nano.py [--lora FILE] [--pictures FOLDER]`.

Prints the reconstruction of each real clip of the demo, how many captions the samples follow in colour and direction,
and, with the LoRA of a demo, how far samples for the caption of its clip are from that clip: the root mean square of
the difference of normalised latents, with the LoRA and without, for the same noise. A ratio below 1 means nearer.
With --pictures it writes contact sheets: one row for each sample.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo import clips
from demo.nano import real
from demo.nano.following import STEPS, Answer, answers
from demo.nano.training import psnr
from mochi_trainer import flow, lora, presets, seeds, vae, weights
from mochi_trainer.model import DiT
from mochi_trainer.video import png

GUIDANCE_OF_THE_DEMO = 2.0
"""That of examples/lora-nano.yaml; whether captions are followed is asked with more, which makes colours clear."""
SAMPLES = 8
SHOWN = 4
"""Samples in a picture."""

GAP = 4


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def reconstructions() -> dict[str, Tensor]:
    """Print what the autoencoder keeps of the first 13 frames of each real clip; return those clips."""
    encoder, decoder = weights.load_encoder("nano"), weights.load_decoder("nano")
    videos = {}
    for clip in clips.bundled():
        videos[clip.name] = video = real.first_frames(real.RealClip(clip.name, clip.path, clip.caption))
        with torch.no_grad():
            value = psnr(video, decoder(encoder(video).mean))
        held = ", held: never trained on" if clip.name == clips.TUNED else ""
        _say(f"reconstruction of {clip.name}: {value:.1f} dB{held}")
    return videos


def following(count: int) -> list[Answer]:
    """Print how many samples follow their caption; return them."""
    made = answers(
        weights.load_dit("nano").eval(), weights.load_text_encoder("nano"), weights.load_decoder("nano"),
        presets.preset_named("nano").latents, count=count,
    )  # fmt: skip
    for answer in made:
        mark = "yes" if answer.followed else "no "
        _say(f"{mark}  {answer.caption}: {answer.seen.colour}, {answer.seen.direction}")
    _say(f"captions followed in colour and direction: {sum(a.followed for a in made)} of {count}")
    return made


def tuned(path: Path, video: Tensor, caption: str) -> dict[str, list[Tensor]]:
    """Print how near the samples for `caption` come to `video`; return the samples with and without the LoRA."""
    latents = presets.preset_named("nano").latents
    decoder = weights.load_decoder("nano")
    text = weights.load_text_encoder("nano").encode([caption])[0].features
    with torch.no_grad():
        z = vae.normalise(weights.load_encoder("nano")(video).mean, latents)
    distances: dict[str, list[float]] = {}
    videos: dict[str, list[Tensor]] = {}
    for name in ("base", "LoRA"):
        model: DiT = weights.load_dit("nano").eval()
        if name == "LoRA":
            lora.load_file(model, path)
        for seed in range(SAMPLES):
            noise = torch.randn(z.shape, generator=seeds.stream(seed, "sample"))
            made = flow.sample(model, text, noise, steps=STEPS, guidance=GUIDANCE_OF_THE_DEMO)
            distances.setdefault(name, []).append(float((made - z).square().mean().sqrt()))
            with torch.no_grad():
                videos.setdefault(name, []).append(decoder(vae.denormalise(made, latents)))
    for name, values in distances.items():
        _say(f"distance to the clip, {name}: mean {statistics.mean(values):.3f} of {SAMPLES} seeds, "
             f"from {min(values):.3f} to {max(values):.3f}")  # fmt: skip
    ratios = [ours / base for ours, base in zip(distances["LoRA"], distances["base"], strict=True)]
    _say(f"ratio LoRA / base, seed by seed: mean {statistics.mean(ratios):.2f}, worst {max(ratios):.2f}")
    return videos


def sheet(videos: Sequence[Tensor], columns: int = 4) -> bytes:
    """PNG with a row of frames for each video (1, 3, F, H, W)."""
    rows = []
    for video in videos:
        frames = vae.to_frames(video)
        chosen = frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        rows.append(
            np.concatenate(
                [np.pad(each, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for each in chosen], 1
            )
        )
    return png(np.concatenate(rows))


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lora", type=Path, metavar="FILE", help="by default none; the demo leaves one in demo-out/"
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=10, help="captions, by default 10")
    options = parser.parse_args()
    torch.set_num_threads(2)
    pictures: dict[str, Sequence[Tensor]] = {}
    videos = reconstructions()
    pictures["captions"] = [answer.video[None] for answer in following(options.count)]
    if options.lora:
        caption = next(clip.caption for clip in clips.bundled() if clip.name == clips.TUNED)
        made = tuned(options.lora, videos[clips.TUNED], caption)
        pictures |= {
            "clip": [videos[clips.TUNED]],
            "base": made["base"][:SHOWN],
            "lora": made["LoRA"][:SHOWN],
        }
    for name, chosen in pictures.items() if options.pictures else ():
        options.pictures.mkdir(parents=True, exist_ok=True)
        (options.pictures / f"nano-{name}.png").write_bytes(sheet(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
