"""The tensors in the files of a part, compared by name, shape and type with those of the model before one is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from mochi_trainer.presets.catalogue import Preset
from mochi_trainer.weights.diffusers_layout import (
    Segment,
    decoder_table,
    diffusers_layout,
    dit_layout,
    dit_origins,
    encoder_table,
    origins,
)
from mochi_trainer.weights.finding import PartFiles
from mochi_trainer.weights.forms import Shapes, likeness, shapes_of, strange
from mochi_trainer.weights.stored import TYPES, Header, Listed, StoredFile, WeightsError, header_of

SHOWN = 5
"""As many problems are named; the rest is counted."""


class Located(NamedTuple):
    """One tensor and its file."""

    file: StoredFile
    listed: Listed


class Contents(NamedTuple):
    """What is in the files of a part, and how the model's tensors are made of it."""

    tensors: Mapping[str, Located]
    """By name in the files; only those of the part."""
    headers: Sequence[tuple[StoredFile, Header]]
    segments: Mapping[str, Sequence[Segment]]
    """By published name."""


def contents(part: PartFiles, shapes: Shapes, preset: Preset | None = None) -> Contents:
    """The tensors of `part`, which fit the published `shapes` without a missing, extra or wrong one.

    Reads the headers only. Diffusers' layout needs the `preset`. Raises WeightsError and what the store raises.
    """
    headers = [(file, header_of(file)) for file in part.files]
    expected, segments, other = _expected(part, shapes, preset)
    tensors: dict[str, Located] = {}
    problems = list(_misplaced(part, headers))
    for file, header in headers:
        for name, listed in header.tensors.items():
            if name in tensors:
                problems.append(f"{name} is in {tensors[name].file.key} and in {file.key}")
            elif not (other and name.startswith(other)):
                tensors[name] = Located(file, listed)
    problems += _problems(expected, tensors)
    shapes_found = {name: located.listed.shape for name, located in tensors.items()}
    name = part.index.name if part.index else part.files[0].name
    if problems and strange(expected, shapes_found):
        model = preset.name if preset else "the model"
        raise WeightsError(f"{name} does not fit {model}: {likeness(expected, shapes_found, model)}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise WeightsError(f"{name} does not fit: {', '.join(problems[:SHOWN])}{more}")
    return Contents(tensors, headers, segments)


def _problems(expected: Shapes, tensors: Mapping[str, Located]) -> Iterator[str]:
    for name in expected:
        if name not in tensors:
            yield f"{name} is missing"
    for name, (_, listed) in tensors.items():
        if name not in expected:
            yield f"{name} is not part of the model"
        elif listed.shape != expected[name]:
            yield f"{name} has shape {list(listed.shape)} instead of {list(expected[name])}"
        elif listed.dtype not in TYPES:
            yield f"{name} has type {listed.dtype} instead of one of {', '.join(TYPES)}"


def _misplaced(part: PartFiles, headers: Sequence[tuple[StoredFile, Header]]) -> Iterator[str]:
    """Tensors that are not in the file that the index names."""
    held = {file.key: header.tensors for file, header in headers}
    for name, key in (part.places or {}).items():
        if name not in held[key]:
            yield f"{name} is not in {key}, where the index has it"


def _expected(
    part: PartFiles, shapes: Shapes, preset: Preset | None
) -> tuple[Shapes, Mapping[str, Sequence[Segment]], str]:
    """Names and shapes in the files, what the model's tensors are made of, and how names of another part begin."""
    if part.layout == "published":
        whole = {name: [Segment(name, 0, torch.Size(shape).numel())] for name, shape in shapes.items()}
        return shapes, whole, ""
    assert preset is not None, "diffusers' names follow from the sizes of the preset"
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    if part.part == "dit":
        depth = preset.dit.depth
        return shapes_of(dit_layout(state, depth)), dit_origins(shapes, depth), ""
    table = encoder_table(preset.encoder) if part.part == "encoder" else decoder_table(preset.decoder)
    own, other = ("encoder.", "decoder.") if part.part == "encoder" else ("decoder.", "encoder.")
    expected = {own + name: shape for name, shape in shapes_of(diffusers_layout(state, table)).items()}
    segments = {
        name: [segment._replace(name=own + segment.name) for segment in made]
        for name, made in origins(shapes, table).items()
    }
    return expected, segments, other
