"""The stage captions: each caption of the trimmed clips as un-padded T5 features, each different text once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import save

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.data.dataset import EMPTY_PROMPT
from mochi_trainer.graph import Made, Units, complete, unit_key
from mochi_trainer.jobs.cache_keys import cache_key
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.shards import shard_of
from mochi_trainer.jobs.trimmed import TrimmedClip, read_trimmed, stage_result
from mochi_trainer.jobs.units import MAKER, claims_for, new_ones, usable_by
from mochi_trainer.movement import PROCESS
from mochi_trainer.parallel.devices import compute_type, stage_device
from mochi_trainer.storage import Manifest, Store, find_manifest, open_store, write_manifest
from mochi_trainer.text import MAX_TOKENS, TextEncoder
from mochi_trainer.weights import load_text_encoder
from mochi_trainer.weights.of_run import model_identity, model_source

log = logging.getLogger(__name__)

VERSION = 4
"""Raise it when the output for the same input changes."""

FEATURES = ".safetensors"
STORED = torch.bfloat16
"""What T5 computes in on a GPU; half the bytes of float32."""

SHOWN = 5
"""As many captions that are too long are named in the message; the report marks them all."""

AT_ONCE = 64
"""Captions claimed at once: a few batches."""


def execute(run: RunFile) -> Finished:
    """Encode the captions of `run` into the cache, or find that it has been done; the first shard alone tells the result.

    Raises MissingObjectError (output of trim, weights), DeviceUnavailableError, OutOfMemoryError and what the stores
    raise.
    """
    shard = shard_of(run, "captions")
    cache = open_store(run.locations.cache, run.s3)
    clips = read_trimmed(cache, run).clips
    model = model_identity(run, ["t5"])
    texts = [[clip.name, clip.source, clip.caption] for clip in clips]
    key = cache_key("captions", VERSION, captions=texts, model=model)
    prefix = layout.cache_entry("", "captions", key)
    reuse = run.preprocessing.cache_policy == "Reuse"
    manifest = find_manifest(cache, prefix, unaltered=True) if reuse else None
    made = 0
    if manifest is None:
        manifest, made = _encode(run, cache, prefix, clips, model)
    if manifest is None or not shard.first:
        return shard.done(made, len(_texts(clips)), "captions")
    truncated = manifest.details["truncated"]
    return Finished(
        result=stage_result(key, hit=not made, done=len(clips), failures=[]),
        message=f"{_told(len(clips), len(_texts(clips)), made)}{_cut(truncated)}",
        details={"truncated": truncated},
    )


def _encode(
    run: RunFile, cache: Store, prefix: str, clips: Sequence[TrimmedClip], model: str
) -> tuple[Manifest | None, int]:
    """The stage's manifest, None from a shard other than the first, and how many texts were encoded for it here."""
    texts = {_unit(text, model): text for text in _texts(clips)}
    family = unit_key("captions", VERSION, model=model)
    completed = complete(
        Units(cache, "captions", family),
        claims_for(run, cache, "captions", family),
        list(texts),
        _Encoding(run, texts),
        at_once=AT_ONCE,
        usable=usable_by(run),
        progress=PROCESS.worked,
    )
    if not shard_of(run, "captions").first:
        return None, completed.made
    units = {text: completed.units[key] for key, text in texts.items()}
    entries = [replace(units[""].files[FEATURES], name=EMPTY_PROMPT)]
    entries += [replace(units[c.caption].files[FEATURES], name=f"{c.name}{FEATURES}") for c in clips]
    whole = {clip.source: units[clip.caption].info["tokens"] for clip in clips}
    truncated = {source: tokens for source, tokens in whole.items() if tokens > MAX_TOKENS}
    for source, tokens in truncated.items():
        log.warning("the caption of %s has %d tokens and loses what follows %d", source, tokens, MAX_TOKENS)
    details = {
        "captions": {clip.name: clip.caption for clip in clips},
        "tokens": {clip.name: units[clip.caption].info["count"] for clip in clips},
        "truncated": truncated,
    }
    return write_manifest(cache, prefix, entries, details), new_ones(run, "captions", completed)


def _texts(clips: Sequence[TrimmedClip]) -> list[str]:
    """What is encoded, each text once; the empty prompt is always among them."""
    return list(dict.fromkeys(["", *(clip.caption for clip in clips)]))


def _unit(text: str, model: str) -> str:
    return unit_key("captions", VERSION, text=text, model=model)


class _Encoding:
    """Makes units of texts; the model is loaded when the first is asked for."""

    def __init__(self, run: RunFile, texts: Mapping[str, str]) -> None:
        self._run, self._texts = run, texts
        self._loaded: TextEncoder | None = None

    def __call__(self, groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        for keys in groups:
            yield from self._encoded(keys)

    def _encoded(self, keys: Sequence[str]) -> Iterator[Made]:
        encoder = self._encoder()
        for key, caption in zip(keys, encoder.encode([self._texts[key] for key in keys]), strict=True):
            data = save({"features": caption.features.to("cpu", STORED).contiguous()})
            info: dict[str, Any] = {
                MAKER: self._run.run.uid,
                "count": caption.count,
                "tokens": caption.tokens,
            }
            yield Made(key=key, files={FEATURES: data}, info=info)

    def _encoder(self) -> TextEncoder:
        if self._loaded is None:
            PROCESS.doing("loading")
            run = self._run
            device = stage_device(run, run.preprocessing.captions.gpus)
            source = model_source(run, ["t5"])
            self._loaded = load_text_encoder(
                run.model.preset, source, device=device, dtype=compute_type(device)
            )
        return self._loaded


def _told(captions: int, texts: int, made: int) -> str:
    """Equal captions are one text, and the empty prompt is one more."""
    if not made:
        return f"reused features of {captions} captions"
    reused = f", {made} of {texts} different texts here" if made < texts else ""
    return f"made features of {captions} captions{reused}"


def _cut(truncated: Mapping[str, int]) -> str:
    """Which captions lost their end, for the stage's message."""
    if not truncated:
        return ""
    named = ", ".join(f"{source} ({tokens})" for source, tokens in list(truncated.items())[:SHOWN])
    more = f" and {len(truncated) - SHOWN} more" if len(truncated) > SHOWN else ""
    return f"; cut off after {MAX_TOKENS} tokens: {named}{more}"
