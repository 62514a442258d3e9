"""`python -m mochi_trainer.presets.nano`: train the small model and write its weights.

One JSON line for each number on standard output. The defaults made the weights in this package.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from mochi_trainer import seeds
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import NANO_DECODER, NANO_DIT, NANO_ENCODER, NANO_FOLDER
from mochi_trainer.presets.initial import initialise
from mochi_trainer.presets.nano.clips import moving_shape, moving_texture
from mochi_trainer.presets.nano.training import (
    Effort,
    calm,
    held_loss,
    latents,
    psnr,
    statistics,
    train_autoencoder,
    train_transformer,
)
from mochi_trainer.presets.weights import save_weights
from mochi_trainer.vae import Decoder, Encoder, LatentStatistics, normalise

METADATA = {"model": "mochi-operator nano", "license": "Apache-2.0"}


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


def main(arguments: list[str] | None = None) -> int:
    """Train, measure and write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mochi_trainer.presets.nano", description=__doc__)
    parser.add_argument("--autoencoder-steps", type=int, default=700)
    parser.add_argument("--transformer-steps", type=int, default=600)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=NANO_FOLDER)
    options = parser.parse_args(arguments)
    effort = Effort(
        autoencoder_steps=options.autoencoder_steps,
        transformer_steps=options.transformer_steps,
        clips=options.clips,
        batch=options.batch,
        seed=options.seed,
    )
    torch.set_num_threads(1)
    make(effort, options.output)
    return 0


def make(effort: Effort, output: Path) -> None:
    """Train all parts and write them into the folder `output`."""
    start = time.monotonic()

    def report(name: str, step: int, value: float) -> None:
        line = {
            "number": name,
            "step": step,
            "value": round(value, 4),
            "seconds": round(time.monotonic() - start),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    encoder, decoder, model = Encoder(NANO_ENCODER), Decoder(NANO_DECODER), DiT(NANO_DIT)
    t5 = T5EncoderModel(text_config())
    for part in (encoder, decoder, model, t5):
        initialise(part, effort.seed)
    calm(encoder)

    train_autoencoder(encoder, decoder, effort, report)
    held = seeds.stream(effort.seed, "validation", step=1)
    for name, draw in (("shape", moving_shape), ("texture", moving_texture)):
        video = draw(held).video[None]
        with torch.no_grad():
            report(f"held_{name}_psnr", effort.autoencoder_steps, psnr(video, decoder(encoder(video).mean)))

    draws = seeds.stream(effort.seed, "order")
    clips = [moving_shape(draws) for _ in range(effort.clips)]
    z = latents(encoder, clips)
    latents_of = statistics(z)
    report("held_loss", 0, held_loss(model, encoder, t5, latents_of, effort.seed))
    train_transformer(model, t5, normalise(z, latents_of), [clip.caption for clip in clips], effort, report)
    report("held_loss", effort.transformer_steps, held_loss(model, encoder, t5, latents_of, effort.seed))
    write(output, encoder, decoder, model, t5, latents_of)


def write(
    output: Path,
    encoder: Encoder,
    decoder: Decoder,
    model: DiT,
    t5: T5EncoderModel,
    latents_of: LatentStatistics,
) -> None:
    """Write the four parts, in bfloat16, and the statistics of the latents."""
    output.mkdir(parents=True, exist_ok=True)
    for name, part in (("encoder", encoder), ("decoder", decoder), ("dit", model)):
        save_weights(part, output / f"{name}.safetensors", dtype=torch.bfloat16, metadata=METADATA)
    nn.Module.to(t5, torch.bfloat16)
    t5.save_pretrained(output / "t5")
    numbers = {"mean": list(latents_of.mean), "std": list(latents_of.std)}
    (output / "latents.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for path in output.rglob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    sys.exit(main())
