"""Operators counted through a computation, with what they read and write, on tensors with or without content.

Each operator is taken to read its inputs from memory once and to write its outputs once: eager computation does just that, but
for caches. One operator is one kernel or a few; views, questions about a tensor and memory that is only made are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
_NOTHING = frozenset(
    {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach, aten._unsafe_view, aten.lift_fresh}
)  # fmt: skip
_OVERWRITES = frozenset({aten.copy_, aten.fill_, aten.zero_, aten.normal_, aten.uniform_})
"""In-place operators that do not read what they write to."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types here
    """Inside it, `operators` are counted, and the `moved` bytes that they read and write; `between` are those of the
    operators that are neither a product of matrices nor attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.moved = 0
        self.between = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        written = _tensors(out) or _tensors(_written(func, args))
        if func.is_view or packet in _NOTHING or not written:
            return out
        read = _tensors((args, kwargs))
        count = sum(map(_bytes, read[1:] if packet in _OVERWRITES else read)) + sum(map(_bytes, written))
        self.operators += 1
        self.moved += count
        self.between += 0 if packet in flop_registry else count
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Sequence[Any]) -> list[Any]:
    """The arguments that an operator changes."""
    declared = zip(func._schema.arguments, args, strict=False)  # the others have their defaults
    return [given for each, given in declared if each.alias_info is not None and each.alias_info.is_write]


def _bytes(tensor: Tensor) -> int:
    """Of the numbers that a tensor has, those that it repeats counted once; of a sharded one this rank's part."""
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    count = own.element_size()
    for length, stride in zip(own.shape, own.stride(), strict=True):
        count *= length if stride else min(length, 1)
    return count
