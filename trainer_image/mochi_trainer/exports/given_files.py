"""Files that somebody names on the command line: LoRAs with weights, and transformers in either layout, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mochi_trainer import lora
from mochi_trainer.documents import json_of
from mochi_trainer.errors import AccessDeniedError, InvalidInputError, MissingObjectError
from mochi_trainer.lora.combination import Weighted
from mochi_trainer.presets.catalogue import PresetName
from mochi_trainer.weights.diffusers_folder import INDEX, WEIGHTS
from mochi_trainer.weights.forms import FileLayout, nearest
from mochi_trainer.weights.stored import Header, read_header


def weighted(text: str, option: str = "--lora") -> tuple[Path, Weighted]:
    """The LoRA of `FILE` or `FILE:WEIGHT`, which `option` gave, and the file's path; a folder stands for its one LoRA.

    Raises MissingObjectError when there is no such file, AccessDeniedError when it may not be read, InvalidInputError
    when it is no LoRA of this model.
    """
    path, weight = Path(text), 1.0
    before, colon, after = text.rpartition(":")
    if colon and not path.exists():
        try:
            path, weight = Path(before), float(after)
        except ValueError as error:
            raise InvalidInputError(f"{option} must be FILE or FILE:WEIGHT, got {text}") from error
    if not math.isfinite(weight):
        raise InvalidInputError(f"the weight of {option} must be a finite number, got {text}")
    try:
        file = lora.file_at(path)
        return file, Weighted(*lora.read_file(file), weight)
    except FileNotFoundError as error:
        raise MissingObjectError(f"{path} does not exist") from error
    except PermissionError as error:
        raise AccessDeniedError(f"{path} may not be read: {error.strerror}") from error
    except (ValueError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be used as a LoRA: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Transformer:
    """All weights of the transformer, in one file or several."""

    files: tuple[Path, ...]
    layout: FileLayout
    preset: PresetName
    size: int
    """Bytes."""
    metadata: Mapping[str, str]
    """Of the first file."""


def transformer(path: Path) -> Transformer:
    """The transformer at `path`: a file, a folder of Diffusers or one that has it as `transformer/`, or `dit.safetensors` in a folder.

    Only headers are read. Raises MissingObjectError when a file is not there, InvalidInputError when it is another part,
    or not whole.
    """
    files = _files(path)
    headers = [read_header(file) for file in files]
    shapes = {name: shape for header in headers for name, shape in header.shapes.items()}
    form = nearest(shapes)
    if form is None or form.part != "transformer":
        raise InvalidInputError(
            f"{path} is no transformer of this model{'' if form is None else f' but a {form.part}'}"
        )
    missing, extra, wrong = form.misfits(shapes)
    if missing or extra or wrong:
        problem = [*(f"{n} is missing" for n in missing), *(f"{n} is not part of it" for n in extra), *wrong]
        raise InvalidInputError(
            f"{path} does not fit {form.preset}: {problem[0]}, {len(problem)} such tensors"
        )
    return Transformer(
        files=files,
        layout=form.layout,
        preset=form.preset,
        size=sum(header.size for header in headers),
        metadata=_of_first(headers),
    )


def _of_first(headers: list[Header]) -> Mapping[str, str]:
    return headers[0].metadata


def _files(path: Path) -> tuple[Path, ...]:
    if path.name == INDEX:
        return _indexed(path)
    if not path.is_dir():
        return (path,)
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    found = [folder / name for name in ("dit.safetensors", WEIGHTS) if (folder / name).is_file()]
    if not found:
        raise MissingObjectError(f"{folder} has neither dit.safetensors nor {WEIGHTS} nor its index")
    return (found[0],)


def _indexed(path: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json_of(path.read_text(encoding="utf-8"))["weight_map"].values()))
        return tuple(path.parent / name for name in names)
    except FileNotFoundError as error:
        raise MissingObjectError(f"{path} does not exist") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read as an index: {error!r}") from error
