"""The stage videos: each trimmed clip as the posterior of its latents, and a check that they can be decoded again.

Shapes: T frames, H height, W width, C colours, B batch.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mochi_api import layout
from mochi_api.outcomes import Item
from mochi_api.runfile import RunFile
from mochi_trainer.errors import ClipError
from mochi_trainer.jobs.cache_keys import cache_key
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.model_files import model_folder, model_identity
from mochi_trainer.jobs.trimmed import Trimmed, TrimmedClip, check_enough, read_trimmed, stage_result
from mochi_trainer.parallel.devices import compute_type, device_for
from mochi_trainer.presets import Part, load_decoder, load_encoder
from mochi_trainer.storage import (
    Entry,
    Manifest,
    Store,
    find_manifest,
    get_entry,
    open_store,
    put_bytes_entry,
    write_manifest,
)
from mochi_trainer.vae import Decoder, Encoder, Posterior
from mochi_trainer.video import read_frames, side_by_side
from mochi_trainer.video.reading import Frames

log = logging.getLogger(__name__)

VERSION = 1
"""Raise it when the output for the same input changes."""


def execute(run: RunFile) -> Finished:
    """Encode the trimmed clips of `run` into the cache, or find that it has been done.

    Raises MissingObjectError (output of trim, weights), DatasetRejectedError, DeviceUnavailableError, OutOfMemoryError
    and what the stores raise.
    """
    cache = open_store(run.locations.cache, run.s3)
    trimmed = read_trimmed(cache, run).for_frames(run.preprocessing.frames)
    parts: list[Part] = ["encoder", "decoder"] if run.preprocessing.videos.reconstruct_every else ["encoder"]
    key = cache_key(
        "videos",
        VERSION,
        trim=run.keys.trim,
        model=model_identity(run, parts),
        frames=run.preprocessing.frames,
        reconstruct_every=run.preprocessing.videos.reconstruct_every,
    )
    prefix = layout.cache_entry("", "videos", key)
    manifest = find_manifest(cache, prefix) if run.preprocessing.cache_policy == "Reuse" else None
    hit = manifest is not None
    if manifest is None:
        manifest = _encode_all(run, cache, prefix, trimmed, parts)
    return _finished(run, key, manifest, hit=hit)


def to_tensor(frames: Frames) -> Tensor:
    """(T, H, W, C) uint8 to float32 (B, C, T, H, W) with B = 1, in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_frames(video: Tensor) -> Frames:
    """(B, C, T, H, W) with B = 1, about [-1, 1], to uint8 (T, H, W, C), rounded and clamped."""
    scaled = (video[0].float().clamp(-1, 1) + 1) * 127.5
    frames: Frames = scaled.round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def psnr(original: Frames, copy: Frames) -> float:
    """Peak signal-to-noise ratio in dB over all pixels; 99 for equal videos."""
    error = float(np.mean((original.astype(np.float32) - copy.astype(np.float32)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))


def _encode_all(run: RunFile, cache: Store, prefix: str, trimmed: Trimmed, parts: Sequence[Part]) -> Manifest:
    gpus = run.preprocessing.videos.gpus
    device = device_for((0 if run.model.preset == "nano" else 1) if gpus is None else gpus)
    every = run.preprocessing.videos.reconstruct_every
    with tempfile.TemporaryDirectory(prefix="mochi-videos-") as name:
        source = model_folder(run, parts, Path(name))
        preset, dtype = run.model.preset, compute_type(device)
        encoder = load_encoder(preset, source, device=device, dtype=dtype)
        decoder = load_decoder(preset, source, device=device, dtype=dtype) if every else None
        work = _Work(cache, prefix, trimmed, run.preprocessing.frames, encoder, decoder, device, Path(name))
        for number, clip in enumerate(trimmed.clips):
            work.encode(clip, check=bool(every) and number % every == 0)
            log.info("videos: %d of %d, %s", number + 1, len(trimmed.clips), clip.source)
    return write_manifest(cache, prefix, work.entries, work.details())


class _Work:
    """The models, and what has been made with them."""

    def __init__(
        self,
        cache: Store,
        prefix: str,
        trimmed: Trimmed,
        frames: int,
        encoder: Encoder,
        decoder: Decoder | None,
        device: torch.device,
        folder: Path,
    ) -> None:
        self._cache, self._prefix, self._trimmed, self._frames = cache, prefix, trimmed, frames
        self._encoder, self._decoder, self._device = encoder, decoder, device
        self._local = folder / "clip.mp4"
        self.entries: list[Entry] = []
        self._clips: list[str] = []
        self._failures: list[Item] = []
        self._reconstructions: list[dict[str, Any]] = []

    def encode(self, clip: TrimmedClip, *, check: bool) -> None:
        """Store the latents of one clip, and with `check` also a decoded comparison; count it when it is damaged."""
        get_entry(self._cache, self._trimmed.manifest, f"{clip.name}.mp4", self._local)
        try:
            frames = read_frames(self._local)[: self._frames]
            posterior = self._posterior(frames)
        except ClipError as error:
            self._failures.append(Item(clip=clip.source, message=str(error)[:1024]))
            return
        tensors = {"mean": posterior.mean, "logvar": posterior.logvar}
        data = save({name: tensor[0].float().cpu().contiguous() for name, tensor in tensors.items()})
        self.entries.append(put_bytes_entry(self._cache, self._prefix, data, f"{clip.name}.safetensors"))
        self._clips.append(clip.name)
        if check and self._decoder is not None:
            self._reconstruct(clip, frames, self._decoder, posterior)

    def details(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "clips": self._clips,
            "failures": [failure.to_wire() for failure in self._failures],
            "reconstructions": self._reconstructions,
        }

    @torch.inference_mode()
    def _posterior(self, frames: Frames) -> Posterior:
        posterior: Posterior = self._encoder(to_tensor(frames).to(self._device))
        if not (posterior.mean.isfinite().all() and posterior.logvar.isfinite().all()):
            raise ClipError("the latents are not finite")
        return posterior

    @torch.inference_mode()
    def _reconstruct(self, clip: TrimmedClip, frames: Frames, decoder: Decoder, posterior: Posterior) -> None:
        copy = to_frames(decoder(posterior.mean))
        score, name = psnr(frames, copy), f"{clip.name}.png"
        self.entries.append(put_bytes_entry(self._cache, self._prefix, side_by_side(frames, copy), name))
        self._reconstructions.append(
            {"clip": clip.name, "source": clip.source, "psnr": round(score, 2), "picture": name}
        )
        log.info("reconstruction of %s: %.1f dB", clip.source, score)


def _finished(run: RunFile, key: str, manifest: Manifest, *, hit: bool) -> Finished:
    failures = [Item.model_validate(failure) for failure in manifest.details["failures"]]
    done = len(manifest.details["clips"])
    check_enough(done + len(failures), done, failures, run.preprocessing.max_failed_items_percent)
    scores = [entry["psnr"] for entry in manifest.details["reconstructions"]]
    mean = f", decoded again at {sum(scores) / len(scores):.1f} dB (mean of {len(scores)})" if scores else ""
    return Finished(
        result=stage_result(key, hit=hit, done=done, failures=failures),
        message=f"{'reused' if hit else 'made'} latents of {done} clips{mean}",
        failures=failures,
        details={"reconstructions": manifest.details["reconstructions"]},
    )
