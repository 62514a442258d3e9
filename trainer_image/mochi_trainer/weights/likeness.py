"""Which model a file seems to be of, for the message when most of its tensors do not fit: one sentence, no list of names."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from mochi_trainer.weights.forms import Form, Shapes, nearest

_BLOCK = re.compile(r"(?:.*\.)?(?:\w*blocks?|layers|h)\.(\d+)\..+")
OTHER = "these are the weights of another model"
CLOSE = 0.9
"""Share of a form's tensors that a file has to have to be called that form."""


class Size(NamedTuple):
    """What tells one transformer from another at a glance."""

    blocks: int
    width: int

    def __str__(self) -> str:
        return f"{self.blocks} blocks of width {self.width}"


def strange(expected: Shapes, found: Shapes) -> bool:
    """Whether most of the tensors are not those of the model: it is another one, not this one with a fault."""
    fitting = sum(found.get(name) == shape for name, shape in expected.items())
    return bool(found) and 2 * fitting < max(len(expected), len(found))


def likeness(expected: Shapes, found: Shapes, model: str) -> str:
    """What a file with the tensors `found`, of which there are some, seems to be, where those `expected` by `model` were wanted."""
    form = nearest(found)
    if form is not None and _fit(form, found) >= CLOSE:
        if form.preset == model:
            return f"this is the {form.part} of {model}"
        sizes = _sizes(expected, found, model) if form.part == "transformer" else ""
        return f"{OTHER}: the {form.part} of {form.preset}{sizes}"
    if form is None and not expected.keys() & found.keys():
        return f"{OTHER}: no name fits, the first is {next(iter(found))}"
    return f"{OTHER}{_sizes(expected, found, model)}"


def _fit(form: Form, found: Shapes) -> float:
    return sum(found.get(name) == shape for name, shape in form.shapes.items()) / len(form.shapes)


def _sizes(expected: Shapes, found: Shapes, model: str) -> str:
    """Both sizes, where they differ."""
    own, other = size_of(found), size_of(expected)
    if own is None or other is None or own == other:
        return f", {len(found)} tensors where {model} has {len(expected)}"
    return f", the file has {own} where {model} has {other.blocks} of width {other.width}"


def size_of(shapes: Shapes) -> Size | None:
    """Blocks, and the number of columns that most matrices have; None when there are no blocks."""
    blocks = {match[1] for name in shapes if (match := _BLOCK.fullmatch(name))}
    columns = Counter(shape[1] for shape in shapes.values() if len(shape) == 2)
    if not blocks or not columns:
        return None
    return Size(len(blocks), columns.most_common(1)[0][0])
