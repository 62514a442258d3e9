"""The command export: a LoRA in the other format or added to its base, a transformer in the other layout; from files, by hand.

Whatever is made lies in a new folder with its model card. The folder appears when it is whole.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi_api import layout
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.exports import uses
from mochi_trainer.exports.card import Artifact, Card, Use, artifact, render
from mochi_trainer.exports.conversion import write_diffusers_folder, write_merged, write_published
from mochi_trainer.exports.given_files import Transformer, weighted
from mochi_trainer.exports.request import Request, base_of, command, preset_of, source_of
from mochi_trainer.lora import LoraParams, export_diffusers, export_native
from mochi_trainer.lora.combination import Weighted, combined
from mochi_trainer.lora.diffusers_format import METADATA_KEY
from mochi_trainer.model import DiT
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.catalogue import SIZES
from mochi_trainer.storage import require_space
from mochi_trainer.weights.diffusers_folder import SHARD_BYTES
from mochi_trainer.weights.stored import read_header

log = logging.getLogger(__name__)

CARD = "README.md"
_OF_FORMAT = ("kwargs", "rank", "targets", METADATA_KEY)
"""Keys of a LoRA's metadata that belong to its format; the others tell where it comes from, and stay."""


def export(request: Request) -> None:
    """Make what `request.to` names in the folder `request.out`.

    Raises InvalidInputError for a file that cannot be used, MissingObjectError for one that is not there, DiskFullError
    before anything is written.
    """
    make = _MAKERS[request.to]
    if request.model is not None and request.to != "merged":
        raise InvalidInputError(f"--model is for --to merged only, got --to {request.to}")
    with _new_folder(request.out) as folder:
        card = make(request, folder)
        names = sorted(path.name for path in folder.iterdir())
        files = [artifact(folder / name, name=name, uri=str(request.out / name)) for name in names]
        (folder / CARD).write_text(render(dataclasses.replace(card, files=files)), encoding="utf-8")
    _tell(files, request.out / CARD)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well."""
    if out.suffix == ".safetensors" or (out.exists() and not out.is_dir()):
        raise InvalidInputError(f"--out must be a folder, got {out}")
    if out.is_dir() and any(out.iterdir()):
        raise InvalidInputError(f"--out must be a new or an empty folder, got {out}, which has files")
    with _beside(out) as name:
        folder = Path(name) / "made"
        folder.mkdir()
        yield folder
        folder.replace(out)


def _beside(out: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent)
    except OSError as error:
        raise InvalidInputError(f"--out {out} cannot be made: {error.strerror}") from error


def _lora(request: Request, folder: Path) -> Card:
    """One or more LoRAs as one, in the format of Diffusers or the native one."""
    given = [weighted(text, "FILE") for text in request.files]
    state, params = _together([adapter for _, adapter in given])
    preset = preset_of(request, [path for path, _ in given])
    details = _lora_metadata([path for path, _ in given], params, preset)
    if request.to == "diffusers":
        name = Path(layout.LORA).name
        tensors, names = export_diffusers(state, params), {"diffusers": name}
    else:
        name = Path(layout.LORA_COMFYUI).name
        (tensors, expected), names = export_native(state, params), {"native": name}
        details |= expected
    require_space(folder, sum(tensor.nbytes for tensor in tensors.values()), name)
    save_file(tensors, folder / name, metadata=details)
    return Card(
        title=f"LoRA for {preset}",
        summary=f"A LoRA for {preset} in {'the format of Diffusers' if 'diffusers' in names else 'the native format, which ComfyUI reads'}.",
        preset=preset,
        relation="adapter",
        tags=["lora"],
        uses=uses.of_lora(_sampling(preset, details), params.targets, **names),
        tables={"Made from": _sources(given), "Settings": _settings(params), "Metadata": _told(details)},
        reproduce=command(request),
    )


def _merged(request: Request, folder: Path) -> Card:
    """One or more LoRAs added to the weights of a base."""
    given = [weighted(text, "FILE") for text in request.files]
    state, params = _together([adapter for _, adapter in given])
    base = base_of(request)
    name = "dit.safetensors"
    require_space(folder, base.size, name)
    loras = ", ".join(f"{path.name}:{adapter.weight:g}" for path, adapter in given)
    details = {**base.metadata, "format": "pt", "base": base.preset, "mode": "merged", "loras": loras}
    log.info("adding %s to %s", loras, base.files[0])
    try:
        write_merged(base.files, state, params, folder / name, details)
    except ValueError as error:
        raise InvalidInputError(f"the LoRA cannot be added to {base.files[0]}: {error}") from error
    found = artifact(base.files[0], name=base.files[0].name, uri=str(base.files[0]))
    return Card(
        title=f"{base.preset} with a LoRA in its weights",
        summary="The LoRA is added in float32 and rounded once to the type of each weight; all other tensors are those of the base.",
        preset=base.preset,
        relation="merge",
        uses=uses.of_weights(_sampling(base.preset, details), name),
        tables={
            "Base": {"preset": base.preset, "file": found.uri, "sha256": found.sha256},
            "Made from": _sources(given),
            "Settings": _settings(params),
            "Metadata": _told(details),
        },
        reproduce=command(request),
    )


def _diffusers_folder(request: Request, folder: Path) -> Card:
    """A published `dit.safetensors` as a folder for Diffusers."""
    source = source_of(request, "published")
    params = preset_named(source.preset).dit
    require_space(folder, source.size, "the folder for diffusers")
    log.info("writing %s for diffusers, files of at most %d GB", source.files[0], SHARD_BYTES // 10**9)
    for path in write_diffusers_folder(source.files[0], params, folder, _with_format(source)):
        log.info("%s is written", path.name)
    return _converted(
        request, source, [uses.of_diffusers_folder(_sampling(source.preset, source.metadata), ".")]
    )


def _published(request: Request, folder: Path) -> Card:
    """A transformer of Diffusers as `dit.safetensors`."""
    source = source_of(request, "diffusers")
    params, name = preset_named(source.preset).dit, "dit.safetensors"
    require_space(folder, source.size, name)
    log.info("writing %s under the published names", ", ".join(path.name for path in source.files))
    with torch.device("meta"):
        names = list(DiT(params).state_dict())
    write_published(source.files, names, params, folder / name, _with_format(source))
    return _converted(request, source, uses.of_weights(_sampling(source.preset, source.metadata), name))


_MAKERS: dict[str, Callable[[Request, Path], Card]] = {
    "diffusers": _lora,
    "native": _lora,
    "merged": _merged,
    "diffusers-folder": _diffusers_folder,
    "published": _published,
}


def _together(adapters: Sequence[Weighted]) -> tuple[Mapping[str, Tensor], LoraParams]:
    """One adapter; a single one with weight 1 stays as it is, number by number."""
    if len(adapters) == 1 and adapters[0].weight == 1:
        return adapters[0].state, adapters[0].params
    try:
        return combined(adapters)
    except ValueError as error:
        raise InvalidInputError(f"the LoRAs cannot be added up: {error}") from error


def _with_format(source: Transformer) -> dict[str, str]:
    return {**source.metadata, "format": "pt"}


def _lora_metadata(paths: Sequence[Path], params: LoraParams, preset: str) -> dict[str, str]:
    """What the file says about itself: what its source said, but for what belongs to a format."""
    own = {"format": "pt", "base": preset, "rank": str(params.rank), "targets": ",".join(params.targets)}
    if len(paths) > 1:
        return own
    source = read_header(paths[0]).metadata
    return own | {key: value for key, value in source.items() if key not in _OF_FORMAT}


def _converted(request: Request, source: Transformer, found: Sequence[Use]) -> Card:
    relation = {"full": "finetune", "merged": "merge"}.get(source.metadata.get("mode", ""), "")
    hashed = {path.name: artifact(path, name=path.name, uri=str(path)).sha256 for path in source.files}
    return Card(
        title=f"Transformer of {source.preset}",
        summary="The same numbers under other names, bit for bit.",
        preset=source.preset,
        relation=relation,
        uses=found,
        tables={
            "Base": {"preset": source.preset},
            "Made from": hashed,
            "Metadata": _told(source.metadata),
        },
        reproduce=command(request),
    )


def _sampling(preset: str, metadata: Mapping[str, str]) -> uses.Sampling:
    """A video of the size that the weights were trained with, as far as the file says it, else of the preset's."""
    frames, width, height, fps = (
        int(metadata[name]) if metadata.get(name, "").isdecimal() else usual
        for name, usual in zip(("frames", "width", "height", "fps"), SIZES[preset], strict=True)
    )
    return uses.Sampling(preset=preset, frames=frames, width=width, height=height, fps=fps)


def _sources(given: Sequence[tuple[Path, Weighted]]) -> dict[str, object]:
    return {
        str(path): f"weight {adapter.weight:g}, sha256 {artifact(path, name=path.name, uri='').sha256}"
        for path, adapter in given
    }


def _settings(params: LoraParams) -> dict[str, object]:
    return {"rank": params.rank, "targets": params.targets, "alpha": "folded into B"}


def _told(metadata: Mapping[str, str]) -> dict[str, object]:
    return {key: value for key, value in sorted(metadata.items()) if key != "format"}


def _tell(files: Sequence[Artifact], card: Path) -> None:
    """The files for a person, one JSON object a file elsewhere."""
    for file in files:
        line = {"file": file.uri, "sizeBytes": file.size_bytes, "sha256": file.sha256}
        text = f"{file.uri}  {file.size_bytes} bytes" if sys.stdout.isatty() else json.dumps(line)
        sys.stdout.write(text + "\n")
    log.info("the model card is %s", card)
