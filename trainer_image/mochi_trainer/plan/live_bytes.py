"""Bytes of live tensors, followed through a computation on tensors with or without content.

A storage counts from the operation that returns it until Python frees it, with the size that it has meanwhile. Memory that a
kernel takes and gives back inside one operation, such as a convolution's workspace, is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types here
    """Inside it, `now` and `peak` are, by type of device, the bytes of the storages that operations returned, plus those
    given to `add`; `moved` are the bytes copied from one type of device to another.

    Sharded parameters are gathered into storages that are emptied and filled again, which is no operation: so while it is
    entered, `torch.UntypedStorage.resize_` tells it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.moved = 0
        self._known: dict[int, tuple[object, str, int]] = {}
        self._resize: Any = None

    def add(self, *tensors: Tensor) -> None:
        """Count the storages of `tensors`, each once; of a sharded one this rank's part."""
        for tensor in tensors:
            own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            storage, device = own.untyped_storage(), own.device.type
            if storage._cdata not in self._known:
                weakref.finalize(storage, self._freed, storage._cdata)
                self._known[storage._cdata] = (None, device, 0)
                self._sized(storage)

    def _sized(self, storage: torch.UntypedStorage) -> None:
        found = self._known.get(storage._cdata)
        if found is None:
            return
        _, device, before = found
        size = storage.nbytes()
        self._known[storage._cdata] = (None, device, size)
        self.now[device] += size - before
        self.peak[device] = max(self.peak[device], self.now[device])

    def _freed(self, key: int) -> None:
        _, device, size = self._known.pop(key)
        self.now[device] -= size

    def __enter__(self) -> Self:
        self._resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = self._resize(storage, size)
            self._sized(storage)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.add(out)
        else:
            self.add(*(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        if func is aten._to_copy.default:
            self.moved += out.nbytes if args[0].device != out.device else 0
        elif func is aten.copy_.default:
            self.moved += out.nbytes if args[1].device != out.device else 0
        return out
