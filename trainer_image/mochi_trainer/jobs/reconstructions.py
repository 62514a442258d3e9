"""Some stored latents decoded again beside their clips: the check of the videos stage, kept beside its output.

It has a key of its own, so that asking for more or fewer of them encodes nothing again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.jobs.cache_keys import cache_key
from mochi_trainer.jobs.copies import Copies
from mochi_trainer.jobs.trimmed import Trimmed, TrimmedClip
from mochi_trainer.likeness import psnr, ssim
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.devices import compute_type, stage_device
from mochi_trainer.storage import (
    Entry,
    Manifest,
    Store,
    find_manifest,
    get_entry,
    put_bytes_entry,
    write_manifest,
)
from mochi_trainer.vae import Decoder, decode_clip, to_frames
from mochi_trainer.video import side_by_side
from mochi_trainer.weights import load_decoder
from mochi_trainer.weights.of_run import model_identity, model_source

log = logging.getLogger(__name__)

VERSION = 3
"""Raise it when the output for the same input changes."""


def reconstructions(
    run: RunFile, cache: Store, trimmed: Trimmed, latents: Manifest, copies: Copies
) -> list[dict[str, Any]]:
    """Every n-th clip of `latents` as {"clip", "source", "psnr", "ssim", "picture"}, the picture as a key of `cache`.

    Those that an earlier run made are reused. Raises MissingObjectError (weights), DeviceUnavailableError,
    OutOfMemoryError and what the stores raise.
    """
    every = run.preprocessing.videos.reconstruct_every
    if not every:
        return []
    key = cache_key("reconstructions", VERSION, model=model_identity(run, ["decoder"]), every=every)
    prefix = layout.join(latents.prefix, "reconstructions", key)
    found = find_manifest(cache, prefix) if run.preprocessing.cache_policy == "Reuse" else None
    if found is None:
        names = set(latents.details["clips"][::every])
        clips = [clip for clip in trimmed.clips if clip.name in names]
        found = _made(run, cache, prefix, latents, clips, copies)
    lines: list[dict[str, Any]] = found.details["reconstructions"]
    return [{**line, "picture": layout.join(prefix, line["picture"])} for line in lines]


def _made(
    run: RunFile,
    cache: Store,
    prefix: str,
    latents: Manifest,
    clips: Sequence[TrimmedClip],
    copies: Copies,
) -> Manifest:
    device = stage_device(run, run.preprocessing.videos.gpus)
    entries: list[Entry] = []
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mochi-reconstructions-") as name:
        folder = Path(name)
        source = model_source(run, ["decoder"])
        decoder = load_decoder(run.model.preset, source, device=device, dtype=compute_type(device))
        for clip in clips:
            PROCESS.moved()  # the clips that count are done
            get_entry(cache, latents, f"{clip.name}.safetensors", folder / "latents.safetensors")
            frames = copies.frames(clip)
            mean = load_file(folder / "latents.safetensors")["mean"].float()
            copy = to_frames(_decoded(decoder, mean.to(device)))
            scores = {"psnr": round(psnr(frames, copy), 2), "ssim": round(ssim(frames, copy), 4)}
            picture = f"{clip.name}.png"
            entries.append(put_bytes_entry(cache, prefix, side_by_side(frames, copy), picture))
            lines.append({"clip": clip.name, "source": clip.label, **scores, "picture": picture})
            log.info("reconstruction of %s: %.1f dB, SSIM %.3f", clip.label, scores["psnr"], scores["ssim"])
    return write_manifest(cache, prefix, entries, {"reconstructions": lines})


@torch.inference_mode()
def _decoded(decoder: Decoder, mean: torch.Tensor) -> torch.Tensor:
    """(12, T, H, W) latents as a video with a batch of one."""
    return decode_clip(decoder, mean[None])
