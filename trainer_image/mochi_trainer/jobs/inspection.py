"""The command inspect: what a safetensors file is, whether it is whole, and what to do with it; reads the header only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.inspected_loras import Inspection, inspected_lora, looks_adapted
from mochi_trainer.lora.files import config_beside, file_at
from mochi_trainer.lora.importing import NOTHING
from mochi_trainer.lora.refusals import refusal
from mochi_trainer.presets.catalogue import PRESETS
from mochi_trainer.train.shards import MOMENTS, WEIGHT
from mochi_trainer.vae.latents import SPATIAL, video_frames
from mochi_trainer.weights.forms import nearest
from mochi_trainer.weights.stored import Header, read_header

SHOWN = 5
"""As many tensors of each problem are named; the rest is counted."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.safetensors")
_PARTS = {
    "transformer": "transformer (DiT)",
    "encoder": "encoder of the autoencoder",
    "decoder": "decoder of the autoencoder",
    "autoencoder": "autoencoder, both halves",
}
_LAYOUTS = {"published": "published names", "diffusers": "Diffusers' names"}
_MADE = {"full": ", tuned", "merged": " with a LoRA in its weights"}
"""By what the metadata says about the way it was made."""
_ADVICE = {
    ("transformer", "published"): "put it as dit.safetensors into the model's folder (model.source, or sample --model); for Diffusers: export FILE --to diffusers-folder",
    ("transformer", "diffusers"): "put it as transformer/diffusion_pytorch_model.safetensors into the model's folder (model.source, or sample --model); as dit.safetensors: export FILE --to published",
    ("encoder", "published"): "put it as encoder.safetensors into the model's folder (model.source)",
    ("decoder", "published"): "put it as decoder.safetensors into the model's folder (model.source, or sample --model)",
    ("autoencoder", "diffusers"): "put it as vae/diffusion_pytorch_model.safetensors into the model's folder (model.source, or sample --model)",
}  # fmt: skip


def report(path: Path) -> str:
    """What the command prints; of a folder, for its one file.

    Raises as `read_header` does, and InvalidInputError for a folder without a file, or with several.
    """
    try:
        file = file_at(path)
        header = read_header(file)
        found = inspected(header, file.name, config_beside(file, header.tensors))
    except (ValueError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    lines = [f"{file.name}: {found.what}"]
    rows = {
        "tensors": f"{len(header.tensors)}, with {header.parameters:,} numbers in {header.size:,} bytes",
        "types": ", ".join(f"{kind} ({count})" for kind, count in _types(header)),
        **found.facts,
        "metadata": "; ".join(f"{key}={value}" for key, value in sorted(header.metadata.items())) or "none",
        "missing": _named(found.missing),
        "extra": _named(found.extra),
        "wrong shape": _named(found.wrong),
        "what to do": found.advice,
    }
    lines += [f"  {name:<12} {text}" for name, text in rows.items()]
    return "\n".join(lines) + "\n"


def inspected(header: Header, name: str, beside: Mapping[str, Any] = NOTHING) -> Inspection:
    """What a file with this header is; `name` is the file's, which tells shards apart, `beside` peft's configuration."""
    if not header.tensors:
        return Inspection(what="a file without tensors", advice="get the file again, or make it anew")
    special = _stored_by_us(header, name) or _text_encoder(header) or inspected_lora(header, beside)
    if special is not None:
        return special
    form = nearest(header.shapes)
    if form is None:
        return _stranger(header)
    missing, extra, wrong = form.misfits(header.shapes)
    fits = not (missing or extra or wrong)
    advice = _ADVICE[form.part, form.layout]
    if not fits:
        advice = f"do not use it: it does not fit {form.preset}; get the file again, or name the right model"
        if missing and _SHARD.search(name):
            advice = "it is one of several files of a model; keep them together, with their index"
    made = _MADE.get(header.metadata.get("mode", ""), "")
    return Inspection(
        what=f"{_PARTS[form.part]}{made}, {_LAYOUTS[form.layout]}, "
        f"{'fits' if fits else 'nearest to'} {form.preset}",
        advice=advice,
        missing=tuple(missing),
        extra=tuple(extra),
        wrong=tuple(wrong),
    )


def _types(header: Header) -> list[tuple[str, int]]:
    return Counter(listed.dtype for listed in header.tensors.values()).most_common()


def _named(problems: tuple[str, ...]) -> str:
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{len(problems)}: {', '.join(problems[:SHOWN])}{more}" if problems else "none"


def _stored_by_us(header: Header, name: str) -> Inspection | None:
    """What the stages and checkpoints of this trainer leave."""
    names, shapes = set(header.tensors), header.shapes
    if names == {"mean", "logvar"} and len(shapes["mean"]) == 4:
        channels, frames, rows, columns = shapes["mean"]
        return Inspection(
            what="latents of a clip, as the stage videos stores them",
            facts={
                "latents": f"{channels} channels, {frames} x {rows} x {columns}",
                "video": f"{video_frames(frames)} frames of {columns * SPATIAL}x{rows * SPATIAL}",
            },
            advice="leave it in the cache: training finds it there by its key",
        )
    if names == {"features"} and len(shapes["features"]) == 2:
        tokens, width = shapes["features"]
        return Inspection(
            what=f"features of a caption, as the stage captions stores them{_fitting(width)}",
            facts={"tokens": str(tokens), "width": str(width)},
            advice="leave it in the cache: training finds it there by its key",
        )
    prefixes = {each.partition("/")[0] for each in names if "/" in each}
    if prefixes and prefixes <= {WEIGHT, *MOMENTS}:
        return _checkpoint(names, name)
    return None


def _checkpoint(names: set[str], name: str) -> Inspection:
    shard = _SHARD.search(name)
    own = [each for each in names if each.startswith(f"{WEIGHT}/")]
    return Inspection(
        what="checkpoint of a training, "
        + ("adapters" if any(".lora_" in n for n in own) else "all weights"),
        facts={
            "shard": f"{int(shard[1]) + 1} of {int(shard[2])}" if shard else "not said by the file's name",
            "weights": str(len(own)),
            "moments": "yes" if any(each.startswith(MOMENTS) for each in names) else "none yet",
        },
        advice="leave it in its folder: the run resumes from it by itself; for use elsewhere take the run's artifacts/",
    )


def _text_encoder(header: Header) -> Inspection | None:
    query = "encoder.block.0.layer.0.SelfAttention.q.weight"
    if query not in header.tensors:
        return None
    blocks = {match[1] for name in header.tensors if (match := re.match(r"encoder\.block\.(\d+)\.", name))}
    width = header.shapes[query][-1]
    return Inspection(
        what=f"T5 text encoder, names of transformers{_fitting(width)}",
        facts={"blocks": str(len(blocks)), "width": str(width)},
        advice="put it with its config.json and tokenizer into the folder t5/ of the model's folder",
    )


def _fitting(width: int) -> str:
    for name, make in PRESETS.items():
        if make().dit.text_feature_width == width:
            return f", fits {name}"
    return ", fits no preset"


def _stranger(header: Header) -> Inspection:
    names = list(header.tensors)
    told = refusal(names) if looks_adapted(names) else None
    why = None if told is None else told[1]
    kind = "LoRA of another model or layout" if looks_adapted(names) else "unknown"
    return Inspection(
        what=kind if why is None else why.what,
        facts={"names": ", ".join(names[:SHOWN]) or "none"},
        advice="do not use it here: its names belong to no part of Mochi-1" if why is None else why.action,
    )
