"""An adapter of a fused layer as adapters of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from mochi_trainer.lora.targets import PARTS, PROJECTIONS, Target


class Stacked(NamedTuple):
    """What a file that stacks the adapters of the parts, as `export_native` does, says about them."""

    targets: tuple[Target, ...] = ()
    """Those with an adapter; none when the file does not stack."""
    rank: int = 0
    """Of each adapter; 0 when the file does not say so."""


def stacked(metadata: Mapping[str, str]) -> Stacked:
    """What a file's metadata says. Raises ValueError when its rank is no number."""
    names = metadata.get("targets", "").split(",")
    targets = tuple(target for target in PROJECTIONS if target in names)
    text = metadata.get("rank", "0") if targets else "0"
    if not text.isdecimal():
        raise ValueError(f"the metadata key rank must be a number, got {text!r:.40}")
    return Stacked(targets, int(text))


def separated(layer: str, a: Tensor, b: Tensor, said: Stacked) -> Iterator[tuple[Target, Tensor, Tensor]]:
    """The adapters of the parts of `layer`: their own rows of A where they are stacked, else the whole A.

    Raises ValueError when the file says that they are stacked, and they are not.
    """
    of_layer: dict[str, Target] = {p.part: target for target, p in PROJECTIONS.items() if p.layer == layer}
    rows = dict(zip(PARTS[layer], b.chunk(len(PARTS[layer])), strict=True))
    own = [part for part, target in of_layer.items() if target in said.targets]
    if not own or said.rank * len(own) > len(a) or (not said.rank and len(a) % len(own)):
        for part, target in of_layer.items():
            yield target, a, rows[part]
        return
    rank = said.rank or len(a) // len(own)
    blocks = {part: slice(index * rank, (index + 1) * rank) for index, part in enumerate(own)}
    if not all(_only(rows[part], blocks.get(part)) for part in rows):
        raise ValueError(f"{layer} must have a stacked adapter for {', '.join(own)}, got a shared one")
    for part in own:
        yield of_layer[part], a[blocks[part]], rows[part][:, blocks[part]]


def _only(b: Tensor, columns: slice | None) -> bool:
    """Whether B is zero outside `columns`; taken to be so where only the shape is known."""
    rest = b.clone()
    if columns is not None:
        rest[:, columns] = 0
    return rest.is_meta or not bool(rest.any())
