"""The stage videos: each trimmed clip as the posterior of its latents, and a check that they can be decoded again."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from mochi_api import layout
from mochi_api.clips import ClipReason
from mochi_api.outcomes import Item
from mochi_api.runfile import RunFile
from mochi_trainer.errors import ClipError
from mochi_trainer.jobs.cache_keys import cache_key
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.reconstructions import reconstructions
from mochi_trainer.jobs.trimmed import Trimmed, TrimmedClip, check_enough, read_trimmed, stage_result
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.devices import compute_type, stage_device
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
from mochi_trainer.vae import Encoder, Posterior, encode_clip, to_tensor
from mochi_trainer.video import read_frames
from mochi_trainer.video.reading import Frames
from mochi_trainer.weights import load_encoder
from mochi_trainer.weights.of_run import model_identity, model_source

log = logging.getLogger(__name__)

VERSION = 2
"""Raise it when the output for the same input changes."""


def execute(run: RunFile) -> Finished:
    """Encode the trimmed clips of `run` into the cache, or find that it has been done; decode some of them again.

    Raises MissingObjectError (output of trim, weights), DatasetRejectedError, DeviceUnavailableError, OutOfMemoryError
    and what the stores raise.
    """
    cache = open_store(run.locations.cache, run.s3)
    trimmed = read_trimmed(cache, run).for_frames(run.preprocessing.frames)
    key = _key(trimmed, run)
    prefix = layout.cache_entry("", "videos", key)
    manifest = find_manifest(cache, prefix) if run.preprocessing.cache_policy == "Reuse" else None
    hit = manifest is not None
    if manifest is None:
        manifest = _encode_all(run, cache, prefix, trimmed)
    _check_enough(run, manifest)
    return _finished(key, manifest, reconstructions(run, cache, trimmed, manifest), hit=hit)


def _key(trimmed: Trimmed, run: RunFile) -> str:
    """Over the content of the trimmed clips, not where they come from: another caption encodes no clip again."""
    spec, contents = run.preprocessing, trimmed.manifest.entries
    return cache_key(
        "videos",
        VERSION,
        clips=[[clip.name, clip.source, contents[f"{clip.name}.mp4"].sha256] for clip in trimmed.clips],
        frames=spec.frames,
        size=[spec.width, spec.height],
        model=model_identity(run, ["encoder"]),
    )


def _encode_all(run: RunFile, cache: Store, prefix: str, trimmed: Trimmed) -> Manifest:
    device = stage_device(run, run.preprocessing.videos.gpus)
    PROCESS.doing("loading")
    with tempfile.TemporaryDirectory(prefix="mochi-videos-") as name:
        source = model_source(run, ["encoder"])
        encoder = load_encoder(run.model.preset, source, device=device, dtype=compute_type(device))
        work = _Work(cache, prefix, trimmed, run.preprocessing.frames, encoder, Path(name))
        for number, clip in enumerate(trimmed.clips, 1):
            PROCESS.worked(number - 1, len(trimmed.clips))
            work.encode(clip)
            log.info("videos: %d of %d, %s", number, len(trimmed.clips), clip.source)
    PROCESS.worked(len(trimmed.clips), len(trimmed.clips))
    return write_manifest(cache, prefix, work.entries, work.details())


class _Work:
    """The encoder, and what has been made with it."""

    def __init__(
        self,
        cache: Store,
        prefix: str,
        trimmed: Trimmed,
        frames: int,
        encoder: Encoder,
        folder: Path,
    ) -> None:
        self._cache, self._prefix, self._trimmed, self._frames = cache, prefix, trimmed, frames
        self._encoder = encoder
        self._local = folder / "clip.mp4"
        self.entries: list[Entry] = []
        self._clips: list[str] = []
        self._failures: list[Item] = []

    def encode(self, clip: TrimmedClip) -> None:
        """Store the latents of one clip; count it when it is damaged."""
        get_entry(self._cache, self._trimmed.manifest, f"{clip.name}.mp4", self._local)
        try:
            posterior = self._posterior(read_frames(self._local)[: self._frames])
        except ClipError as error:
            self._failures.append(error.item(clip.source))
            return
        tensors = {"mean": posterior.mean, "logvar": posterior.logvar}
        data = save({name: tensor[0].float().cpu().contiguous() for name, tensor in tensors.items()})
        self.entries.append(put_bytes_entry(self._cache, self._prefix, data, f"{clip.name}.safetensors"))
        self._clips.append(clip.name)

    def details(self) -> dict[str, Any]:
        """For the manifest."""
        return {"clips": self._clips, "failures": [failure.to_wire() for failure in self._failures]}

    @torch.inference_mode()
    def _posterior(self, frames: Frames) -> Posterior:
        posterior = encode_clip(self._encoder, to_tensor(frames))
        if not (posterior.mean.isfinite().all() and posterior.logvar.isfinite().all()):
            raise ClipError("the latents are not finite", ClipReason.CORRUPT)
        return posterior


def _check_enough(run: RunFile, manifest: Manifest) -> None:
    done, failures = len(manifest.details["clips"]), _failures(manifest)
    check_enough(done + len(failures), done, failures, run.preprocessing.max_failed_items_percent)


def _finished(key: str, manifest: Manifest, check: Sequence[dict[str, Any]], *, hit: bool) -> Finished:
    done, failures = len(manifest.details["clips"]), _failures(manifest)
    scores = [entry["psnr"] for entry in check]
    mean = f", decoded again at {sum(scores) / len(scores):.1f} dB (mean of {len(scores)})" if scores else ""
    return Finished(
        result=stage_result(key, hit=hit, done=done, failures=failures),
        message=f"{'reused' if hit else 'made'} latents of {done} clips{mean}",
        failures=failures,
        details={"reconstructions": check},
    )


def _failures(manifest: Manifest) -> list[Item]:
    return [Item.model_validate(failure) for failure in manifest.details["failures"]]
