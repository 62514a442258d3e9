"""What is asked of the command export, and the files that it names, as far as they fit the request."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.exports.card import Use
from mochi_trainer.exports.given_files import Transformer, transformer
from mochi_trainer.lora.names import in_our_manner
from mochi_trainer.presets import PresetName, preset_named
from mochi_trainer.weights.forms import nearest
from mochi_trainer.weights.stored import read_header


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One export; None where nothing was said."""

    files: Sequence[str]
    """LoRAs, each with its weight after a colon or without, or a transformer."""
    to: str
    """The form to make."""
    out: Path
    """The folder to make."""
    model: Path | None
    """The base to add LoRAs to."""
    preset: PresetName | None
    """What the files have to be of."""


def preset_of(request: Request, loras: Sequence[Path]) -> str:
    """The model whose sizes the LoRAs have. Raises InvalidInputError when the request names another one."""
    shapes = read_header(loras[0]).shapes
    form = nearest({name: shapes[own] for name, own in in_our_manner(shapes).items()})
    found = request.preset or "mochi-1" if form is None else form.preset
    return _agreed(request, found, loras[0])


def _agreed(request: Request, found: str, path: Path) -> str:
    if request.preset not in (None, found):
        raise InvalidInputError(f"{path} has the sizes of {found}, --preset says {request.preset}")
    return found


def base_of(request: Request) -> Transformer:
    """The base for LoRAs, under its published names. Raises InvalidInputError when there is none that fits."""
    path = request.model or preset_named(request.preset or "nano").packaged
    if path is None:
        raise InvalidInputError(f"--model is required: preset {request.preset} brings no weights")
    base = transformer(path)
    _agreed(request, base.preset, path)
    if base.layout != "published":
        raise InvalidInputError(
            f"--model {path} has the names of Diffusers, the published ones are needed: "
            f"make them with export {path} --to published"
        )
    return base


def source_of(request: Request, wanted: str) -> Transformer:
    """The one transformer that is asked for, with the layout `wanted`. Raises InvalidInputError for any other."""
    if len(request.files) != 1:
        raise InvalidInputError(f"--to {request.to} takes one FILE, got {len(request.files)}")
    path = Path(request.files[0])
    source = transformer(path)
    _agreed(request, source.preset, path)
    if source.layout != wanted:
        raise InvalidInputError(
            f"--to {request.to} takes a transformer with {wanted} names, {path} has {source.layout} ones"
        )
    return source


def command(request: Request) -> Use:
    """The request as a command line, for the card."""
    words = [*request.files, "--to", request.to, "--out", str(request.out)]
    for name in ("model", "preset"):
        if (value := getattr(request, name)) is not None:
            words += [f"--{name}", str(value)]
    code = f"python -m mochi_trainer export {shlex.join(words)}"
    return Use(tool="Reproduce", text="The same files give the same bytes.", code=code)
