"""What storing latents and caption features in bfloat16 changes, with nano on real clips: `python tests/bench/stored_precision.py`.

Everything is computed in float32; only what is stored is rounded.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from demo.clips import bundled
from mochi_trainer.likeness import psnr
from mochi_trainer.vae import decode_clip, encode_clip, to_frames, to_tensor
from mochi_trainer.video import Cut, read_clip
from mochi_trainer.weights import load_decoder, load_encoder, load_text_encoder

FRAMES, HEIGHT, WIDTH = 13, 64, 96
CPU = torch.device("cpu")
TEXTS = ["a bird flies over a lake", "rain", "an old man, in the evening, reads a letter " * 8]


@torch.inference_mode()
def main() -> None:
    """One line a clip, one a text."""
    encoder = load_encoder("nano", None, device=CPU, dtype=torch.float32)
    decoder = load_decoder("nano", None, device=CPU, dtype=torch.float32)
    _say(f"{'clip':<28}{'mean':>10}{'std':>10}{'of the noise':>14}{'decoded':>10}")
    for path in (clip.path for clip in bundled()):
        cut = Cut(frames=FRAMES, least=FRAMES, fps=30, width=WIDTH, height=HEIGHT)
        posterior = encode_clip(encoder, to_tensor(read_clip(path, cut).frames))
        mean, std = posterior.mean, (posterior.logvar / 2).exp()
        kept, kept_std = _rounded(mean), (_rounded(posterior.logvar) / 2).exp()
        noise = float((kept - mean).pow(2).mean().sqrt() / std.mean())
        score = psnr(to_frames(decode_clip(decoder, mean)), to_frames(decode_clip(decoder, kept)))
        _say(
            f"{path.name:<28}{_off(mean, kept):>10.5f}{_off(std, kept_std):>10.5f}{noise:>14.3f}{score:>7.1f} dB"
        )
    texts = load_text_encoder("nano", None, device=CPU, dtype=torch.float32)
    for encoded in texts.encode(TEXTS):
        _say(
            f"features of {encoded.count:>3} tokens: {_off(encoded.features, _rounded(encoded.features)):.5f}"
        )


def _rounded(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).float()


def _off(values: Tensor, others: Tensor) -> float:
    """Relative distance, root of the mean squares."""
    return float((others - values).pow(2).mean().sqrt() / values.pow(2).mean().sqrt())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
