"""The stage captions: each caption of the trimmed clips as un-padded T5 features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors.torch import save
from torch import Tensor

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.data.dataset import EMPTY_PROMPT
from mochi_trainer.jobs.cache_keys import cache_key
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.trimmed import TrimmedClip, read_trimmed, stage_result
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.devices import compute_type, stage_device
from mochi_trainer.storage import Store, find_manifest, open_store, put_bytes_entry, write_manifest
from mochi_trainer.text import MAX_TOKENS, EncodedCaption
from mochi_trainer.weights import load_text_encoder
from mochi_trainer.weights.of_run import model_identity, model_source

log = logging.getLogger(__name__)

VERSION = 3
"""Raise it when the output for the same input changes."""

SHOWN = 5
"""As many captions that are too long are named in the message; the report marks them all."""

BATCH = 8
"""Captions encoded at once."""


def execute(run: RunFile) -> Finished:
    """Encode the captions of `run` into the cache, or find that it has been done.

    Raises MissingObjectError (output of trim, weights), DeviceUnavailableError, OutOfMemoryError and what the stores
    raise.
    """
    cache = open_store(run.locations.cache, run.s3)
    clips = read_trimmed(cache, run).clips
    texts = [[clip.name, clip.source, clip.caption] for clip in clips]
    key = cache_key("captions", VERSION, captions=texts, model=model_identity(run, ["t5"]))
    prefix = layout.cache_entry("", "captions", key)
    manifest = find_manifest(cache, prefix) if run.preprocessing.cache_policy == "Reuse" else None
    hit = manifest is not None
    if manifest is None:
        features = _encoded(run, ["", *(clip.caption for clip in clips)])
        manifest = write_manifest(cache, prefix, *_stored(cache, prefix, clips, features))
    truncated = manifest.details["truncated"]
    return Finished(
        result=stage_result(key, hit=hit, done=len(clips), failures=[]),
        message=f"{'reused' if hit else 'made'} features of {len(clips)} captions{_cut(truncated)}",
        details={"truncated": truncated},
    )


def _encoded(run: RunFile, captions: Sequence[str]) -> dict[str, EncodedCaption]:
    """The features of each different caption, on the CPU; the empty one is always among them."""
    device = stage_device(run, run.preprocessing.captions.gpus)
    texts = sorted(set(captions))
    done: dict[str, EncodedCaption] = {}
    PROCESS.doing("loading")
    source = model_source(run, ["t5"])
    encoder = load_text_encoder(run.model.preset, source, device=device, dtype=compute_type(device))
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        PROCESS.worked(start, len(texts))
        done.update(zip(batch, encoder.encode(batch), strict=True))
        log.info("captions: %d of %d", len(done), len(texts))
    PROCESS.worked(len(texts), len(texts))
    return done


def _stored(
    cache: Store, prefix: str, clips: Sequence[TrimmedClip], encoded: Mapping[str, EncodedCaption]
) -> tuple[list[Any], dict[str, Any]]:
    """Store the features; return entries and details of the manifest."""
    entries = [put_bytes_entry(cache, prefix, _file(encoded[""].features), EMPTY_PROMPT)]
    for clip in clips:
        data = _file(encoded[clip.caption].features)
        entries.append(put_bytes_entry(cache, prefix, data, f"{clip.name}.safetensors"))
    truncated = {
        clip.source: encoded[clip.caption].tokens for clip in clips if encoded[clip.caption].truncated
    }
    for source, tokens in truncated.items():
        log.warning("the caption of %s has %d tokens and loses what follows %d", source, tokens, MAX_TOKENS)
    return entries, {
        "captions": {clip.name: clip.caption for clip in clips},
        "tokens": {clip.name: encoded[clip.caption].count for clip in clips},
        "truncated": truncated,
    }


def _cut(truncated: Mapping[str, int]) -> str:
    """Which captions lost their end, for the stage's message."""
    if not truncated:
        return ""
    named = ", ".join(f"{source} ({tokens})" for source, tokens in list(truncated.items())[:SHOWN])
    more = f" and {len(truncated) - SHOWN} more" if len(truncated) > SHOWN else ""
    return f"; cut off after {MAX_TOKENS} tokens: {named}{more}"


def _file(features: Tensor) -> bytes:
    return save({"features": features.cpu().contiguous()})
