"""The stage videos: each trimmed clip as the posterior of its latents, and a check that they can be decoded again."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from mochi_api import layout
from mochi_api.clips import MAY_PASS, ClipReason
from mochi_api.outcomes import Item
from mochi_api.runfile import RunFile
from mochi_api.sizes import Bucket
from mochi_trainer.errors import ClipError
from mochi_trainer.graph import Completed, Made, Unit, Units, ahead, complete, unit_key
from mochi_trainer.jobs.cache_keys import cache_key, key_of_list
from mochi_trainer.jobs.copies import Copies, training_size
from mochi_trainer.jobs.cutting import failure_of
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.reconstructions import reconstructions
from mochi_trainer.jobs.shards import shard_of
from mochi_trainer.jobs.trimmed import Trimmed, TrimmedClip, check_enough, read_trimmed, sources, stage_result
from mochi_trainer.jobs.units import MAKER, claims_for, new_ones, usable_by
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.devices import compute_type, stage_device
from mochi_trainer.storage import Entry, Manifest, Store, find_manifest, open_store, write_manifest
from mochi_trainer.vae import Encoder, Posterior, encode_clip, to_tensor
from mochi_trainer.video.reading import Frames
from mochi_trainer.weights import load_encoder
from mochi_trainer.weights.of_run import model_identity, model_source

log = logging.getLogger(__name__)

VERSION = 3
"""Raise it when the output for the same input changes."""

LATENTS = ".safetensors"
STORED = torch.bfloat16

AT_ONCE = 8
"""Clips claimed at once."""
DECODED_AHEAD = 2
"""Clips that are fetched and decoded while another is encoded."""


def execute(run: RunFile) -> Finished:
    """Encode the trimmed clips of `run` into the cache, or find that it has been done; decode some of them again.

    The first shard alone decodes, and tells the result.

    Raises MissingObjectError (output of trim, weights), DatasetRejectedError, DeviceUnavailableError, OutOfMemoryError
    and what the stores raise.
    """
    shard = shard_of(run, "videos")
    cache = open_store(run.locations.cache, run.s3)
    trimmed = read_trimmed(cache, run).for_training(run.preprocessing)
    key = _key(trimmed, run)
    prefix = layout.cache_entry("", "videos", key)
    reuse = run.preprocessing.cache_policy == "Reuse"
    manifest = find_manifest(cache, prefix, unaltered=True) if reuse else None
    made = 0
    with tempfile.TemporaryDirectory(prefix="mochi-videos-", ignore_cleanup_errors=True) as name:
        copies = Copies(run, cache, trimmed, Path(name))
        if manifest is None:
            manifest, key, made = _encode_all(run, cache, key, trimmed, copies)
        if manifest is None or not shard.first:
            return shard.done(made, len(trimmed.clips), "clips")
        _check_enough(run, trimmed, manifest)
        check = reconstructions(run, cache, trimmed, manifest, copies)
    return _finished(key, manifest, check, made=made)


def _parameters(size: Bucket, model: str) -> dict[str, Any]:
    return {"frames": size.frames, "size": [size.width, size.height], "model": model}


def _units(trimmed: Trimmed, run: RunFile) -> dict[str, str]:
    """The key of each clip's latents, by its name: over the content of the trimmed clip, not where it comes from."""
    model = model_identity(run, ["encoder"])
    return {
        clip.name: unit_key(
            "videos",
            VERSION,
            content=trimmed.copy_of(clip).sha256,
            **_parameters(training_size(clip, run.preprocessing), model),
        )
        for clip in trimmed.clips
    }


def _key(trimmed: Trimmed, run: RunFile) -> str:
    """Another caption encodes no video again."""
    units = _units(trimmed, run)
    return cache_key("videos", VERSION, clips=[[c.name, c.source, units[c.name]] for c in trimmed.clips])


def _encode_all(
    run: RunFile, cache: Store, key: str, trimmed: Trimmed, copies: Copies
) -> tuple[Manifest | None, str, int]:
    """The stage's manifest, None from a shard other than the first, its key, and how many clips were encoded here."""
    keys = _units(trimmed, run)
    completed = _completed(run, cache, trimmed, keys, copies)
    if not shard_of(run, "videos").first:
        return None, key, completed.made
    entries: list[Entry] = []
    failures: list[Item] = []
    for clip in trimmed.clips:
        unit = completed.units[keys[clip.name]]
        error = failure_of(unit)
        if error is not None:
            failures.append(error.item(clip.label))
        else:
            entries.append(replace(unit.files[LATENTS], name=f"{clip.name}{LATENTS}"))
    names = [entry.name.removesuffix(LATENTS) for entry in entries]
    details = {
        "clips": names,
        "failures": [failure.to_wire() for failure in failures],
        **_sizes(run, trimmed, set(names)),
    }
    key = key_of_list(key, failures, run.run.uid)
    prefix = layout.cache_entry("", "videos", key)
    return write_manifest(cache, prefix, entries, details), key, new_ones(run, "videos", completed)


def _completed(
    run: RunFile, cache: Store, trimmed: Trimmed, keys: Mapping[str, str], copies: Copies
) -> Completed:
    """The latents of all clips, size by size: those of one size are a family, shared with the runs that have no other."""
    model, encoding = (
        model_identity(run, ["encoder"]),
        _Encoding(run, {keys[clip.name]: clip for clip in trimmed.clips}, copies),
    )
    clips: dict[Bucket, list[TrimmedClip]] = {}
    for clip in trimmed.clips:
        clips.setdefault(training_size(clip, run.preprocessing), []).append(clip)
    units: dict[str, Unit] = {}
    made = 0
    for size, some in clips.items():
        family = unit_key("videos", VERSION, **_parameters(size, model))
        completed = complete(
            Units(cache, "videos", family),
            claims_for(run, cache, "videos", family),
            [keys[clip.name] for clip in some],
            encoding,
            at_once=AT_ONCE,
            usable=usable_by(run),
            progress=partial(_progress, before=len(units), total=len(set(keys.values()))),
        )
        units |= completed.units
        made += completed.made
    return Completed(units=units, made=made)


def _progress(done: int, _total: int, *, before: int, total: int) -> None:
    PROCESS.worked(before + done, total)


def _sizes(run: RunFile, trimmed: Trimmed, names: Collection[str]) -> dict[str, Any]:
    """For the manifest: the size of each clip of `names`, where there are several."""
    if not run.preprocessing.buckets:
        return {}
    return {"sizes": {clip.name: list(clip.size) for clip in trimmed.clips if clip.name in names}}


class _Encoding:
    """Makes units of clips; the model is loaded when the first is asked for."""

    def __init__(self, run: RunFile, clips: Mapping[str, TrimmedClip], copies: Copies) -> None:
        self._run, self._clips, self._copies = run, clips, copies
        self._loaded: Encoder | None = None

    def __call__(self, groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        encoder = self._encoder()
        for key, frames in ahead(self._decoded, chain.from_iterable(groups), at_once=DECODED_AHEAD):
            try:
                if isinstance(frames, ClipError):
                    raise frames
                files = {LATENTS: _file(_posterior(encoder, frames))}
            except ClipError as error:
                failure = {"message": str(error), "reason": error.reason}
                info = {MAKER: self._run.run.uid, "failure": failure}
                yield Made(key=key, files={}, info=info, keep=error.reason not in MAY_PASS)
                continue
            log.info("%s: encoded", self._clips[key].label)
            yield Made(key=key, files=files, info={MAKER: self._run.run.uid})

    def _decoded(self, key: str) -> tuple[str, Frames | ClipError]:
        try:
            return key, self._copies.frames(self._clips[key])
        except ClipError as error:
            return key, error

    def _encoder(self) -> Encoder:
        if self._loaded is None:
            PROCESS.doing("loading")
            run = self._run
            device = stage_device(run, run.preprocessing.videos.gpus)
            source = model_source(run, ["encoder"])
            self._loaded = load_encoder(run.model.preset, source, device=device, dtype=compute_type(device))
        return self._loaded


@torch.inference_mode()
def _posterior(encoder: Encoder, frames: Frames) -> Posterior:
    posterior = encode_clip(encoder, to_tensor(frames))
    if not (posterior.mean.isfinite().all() and posterior.logvar.isfinite().all()):
        raise ClipError("the latents are not finite", ClipReason.CORRUPT)
    return posterior


def _file(posterior: Posterior) -> bytes:
    tensors = {"mean": posterior.mean, "logvar": posterior.logvar}
    return save({name: tensor[0].to("cpu", STORED).contiguous() for name, tensor in tensors.items()})


def _check_enough(run: RunFile, trimmed: Trimmed, manifest: Manifest) -> None:
    """A clip of the dataset of which any segment cannot be used counts as one that has failed."""
    names = set(manifest.details["clips"])
    done = sources(clip for clip in trimmed.clips if clip.name in names)
    failed = sources(clip for clip in trimmed.clips if clip.name not in names)
    most = run.preprocessing.max_failed_items_percent
    check_enough(sources(trimmed.clips), done, _failures(manifest), most, failed=failed)


def _finished(key: str, manifest: Manifest, check: Sequence[dict[str, Any]], *, made: int) -> Finished:
    done, failures = len(manifest.details["clips"]), _failures(manifest)
    scores = [entry["psnr"] for entry in check]
    mean = f", decoded again at {sum(scores) / len(scores):.1f} dB (mean of {len(scores)})" if scores else ""
    return Finished(
        result=stage_result(key, hit=not made, done=done, failures=failures),
        message=f"{_told(done, done + len(failures), made)}{mean}",
        failures=failures,
        details={"reconstructions": check},
    )


def _told(done: int, total: int, made: int) -> str:
    if not made:
        return f"reused latents of {done} clips"
    reused = f", {total - made} of them from the cache" if made < total else ""
    return f"made latents of {done} clips{reused}"


def _failures(manifest: Manifest) -> list[Item]:
    return [Item.model_validate(failure) for failure in manifest.details["failures"]]
