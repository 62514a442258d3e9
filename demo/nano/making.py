"""Make the weights of `nano`: `python -m demo.nano.making --real FOLDER --held NAME`; `make nano` calls it.

The folder has clips and, beside each, its caption; the held one is measured but never trained on. Prints one JSON line
for each number. With --transformer-only the autoencoder and the text encoder stay as the package has them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from demo.nano import real
from demo.nano.card import Measured, card
from demo.nano.clips import moving_shape
from demo.nano.following import answers
from demo.nano.initial import initialise
from demo.nano.real import RealClip
from demo.nano.training import (
    Effort,
    Lessons,
    begin_quietly,
    calm,
    latents,
    psnr,
    statistics,
    train_autoencoder,
    train_text_encoder,
    train_transformer,
)
from mochi_trainer import seeds, weights
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import (
    NANO_DECODER,
    NANO_DIT,
    NANO_ENCODER,
    NANO_FOLDER,
    nano_statistics,
)
from mochi_trainer.text import TextEncoder, byte_tokenizer
from mochi_trainer.vae import Decoder, Encoder, LatentStatistics, normalise
from mochi_trainer.weights.writing import save_weights

METADATA = {"model": "mochi-operator nano", "license": "Apache-2.0"}
CARD = NANO_FOLDER.with_name("README.md")


def text_config() -> T5Config:
    """The sizes of the text encoder; 384 ids are the bytes and ByT5's special tokens."""
    return T5Config(
        vocab_size=384,
        d_model=NANO_DIT.text_feature_width,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """The networks of `nano`."""

    encoder: Encoder
    decoder: Decoder
    model: DiT
    t5: T5EncoderModel

    @property
    def named(self) -> dict[str, nn.Module]:
        """By the name of their file; the text encoder has a folder of its own."""
        return {"encoder": self.encoder, "decoder": self.decoder, "dit": self.model}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure and write; returns the exit code."""
    options = _parser().parse_args(arguments)
    effort = Effort(
        autoencoder_steps=options.autoencoder_steps,
        colour_steps=options.colour_steps,
        text_steps=options.text_steps,
        transformer_steps=options.transformer_steps,
        clips=options.clips,
        batch=options.batch,
        seed=options.seed,
    )
    torch.set_num_threads(options.threads)
    clips = real.read_folder(options.real) if options.real else []
    began = time.monotonic()
    parts, latents_of = trained(
        [clip for clip in clips if clip.name != options.held],
        effort,
        _printer(began),
        transformer_only=options.transformer_only,
    )
    if options.transformer_only:
        write_networks(options.output, {"dit": parts.model})
    else:
        write(options.output, parts, latents_of)
    measured = measure(parts, latents_of, clips, minutes=time.process_time() / 60)
    text = card(
        parts.named | {"t5": parts.t5},
        effort,
        measured,
        held=options.held,
        transformer_only=options.transformer_only,
    )
    options.card.write_text(text)
    sys.stdout.write(json.dumps(measured._asdict()) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo.nano.making", description=__doc__)
    parser.add_argument("--real", type=Path, help="folder of clips with a .txt beside each")
    parser.add_argument("--held", default="", metavar="NAME", help="clip of the folder that is only measured")
    parser.add_argument(
        "--transformer-only", action="store_true", help="keep the packaged autoencoder and text encoder"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=3000)
    parser.add_argument("--colour-steps", type=int, default=1000)
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--transformer-steps", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=900)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=NANO_FOLDER)
    parser.add_argument("--card", type=Path, default=CARD)
    return parser


def _printer(began: float) -> Callable[[str, int, float], None]:
    def report(name: str, step: int, value: float) -> None:
        line = {"number": name, "step": step, "value": round(value, 4)}
        sys.stdout.write(json.dumps(line | {"seconds": round(time.monotonic() - began)}) + "\n")
        sys.stdout.flush()

    return report


def random_parts(effort: Effort) -> Parts:
    """Drawn weights that are easy to train."""
    encoder = Encoder(NANO_ENCODER)
    parts = Parts(encoder, Decoder(NANO_DECODER), random_transformer(effort), T5EncoderModel(text_config()))
    for part in (encoder, parts.decoder, parts.t5):
        initialise(part, effort.seed)
    calm(encoder)
    return parts


def packaged(effort: Effort) -> Parts:
    """The packaged weights, but for the transformer, which is as random as in `random_parts`."""
    encoder, decoder = weights.load_encoder("nano"), weights.load_decoder("nano")
    return Parts(encoder, decoder, random_transformer(effort), weights.load_text_encoder("nano").model)


def random_transformer(effort: Effort) -> DiT:
    """Drawn weights of the transformer."""
    model = DiT(NANO_DIT)
    initialise(model, effort.seed)
    begin_quietly(model)
    return model


def trained(
    clips: Sequence[RealClip],
    effort: Effort,
    report: Callable[[str, int, float], None],
    *,
    transformer_only: bool,
) -> tuple[Parts, LatentStatistics]:
    """The networks after training on drawn clips and on `clips`, and the statistics of the drawn latents."""
    if transformer_only:
        parts = packaged(effort)
    else:
        parts = random_parts(effort)
        train_text_encoder(parts.t5, effort, report)
        train_autoencoder(parts.encoder, parts.decoder, [real.pixels(clip) for clip in clips], effort, report)

    draws = seeds.stream(effort.seed, "order")
    drawn = [moving_shape(draws) for _ in range(effort.clips)]
    shot = [short for clip in clips for short in real.short_clips(clip)]
    z = latents(parts.encoder, drawn)
    latents_of = nano_statistics() if transformer_only else statistics(z)
    report("clips_encoded", len(drawn) + len(shot), 0.0)
    train_transformer(
        parts.model,
        parts.t5,
        Lessons(normalise(z, latents_of), [clip.caption for clip in drawn]),
        Lessons(normalise(latents(parts.encoder, shot), latents_of), [clip.caption for clip in shot])
        if shot
        else None,
        effort,
        report,
    )
    return parts, latents_of


@torch.no_grad()
def measure(
    parts: Parts, latents_of: LatentStatistics, clips: Sequence[RealClip], *, minutes: float
) -> Measured:
    """Reconstructions of real clips and of a drawn one, and how many of ten captions the samples follow."""
    videos = {clip.name: real.first_frames(clip) for clip in clips}
    videos["a drawn shape"] = moving_shape(seeds.stream(0, "validation")).video[None]
    made = answers(parts.model, TextEncoder(parts.t5, byte_tokenizer()), parts.decoder, latents_of)
    return Measured(
        psnr={name: psnr(video, parts.decoder(parts.encoder(video).mean)) for name, video in videos.items()},
        followed=sum(answer.followed for answer in made),
        asked=len(made),
        minutes=minutes,
    )


def write(output: Path, parts: Parts, latents_of: LatentStatistics) -> None:
    """Write the four parts, in bfloat16, and the statistics of the latents."""
    write_networks(output, parts.named)
    nn.Module.to(parts.t5, torch.bfloat16)
    parts.t5.save_pretrained(output / "t5")
    nn.Module.to(parts.t5, torch.float32)
    numbers = {"mean": list(latents_of.mean), "std": list(latents_of.std)}
    (output / "latents.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (output / "t5/model.safetensors").chmod(0o644)


def write_networks(output: Path, networks: Mapping[str, nn.Module]) -> None:
    """Write networks by the name of their file, in bfloat16."""
    output.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        path = output / f"{name}.safetensors"
        save_weights(network, path, dtype=torch.bfloat16, metadata=METADATA)
        path.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main())
