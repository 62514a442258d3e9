"""Block swapping: the matrices of some blocks wait in host memory and are copied to the device ahead of their use.

Two rooms on the device, each for one block's matrices (one, where a single block waits): while a block computes from one, the next is copied into the other. A
training walks up the blocks and, computing them again, down: so the next is the neighbour, and at the ends the one it came
from. What is in a room is known, so a guess that was wrong costs a copy and never a number.

    adapters, which are trained, stay on the device, and so do norms and biases
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiT
from mochi_trainer.model.narrow import Linear

ROOMS = 2
_ALIGNED = 256
"""Each matrix begins at a multiple of so many bytes."""


def swapped_blocks(depth: int, count: int) -> list[int]:
    """`count` blocks, evenly between the first and the last, which is none of them: it is not computed again.

    Raises InvalidInputError when there are not so many.
    """
    if not 0 <= count < depth:
        raise InvalidInputError(
            f"spec.training.lora.blocksToSwap must be less than the {depth} blocks of the model, got {count}"
        )
    return [index * (depth - 1) // count for index in range(count)]


def matrices(block: nn.Module) -> list[Linear]:
    """The layers of a block whose weights may wait elsewhere."""
    return [layer for layer in block.modules() if isinstance(layer, Linear) and "weight" in layer._parameters]


def make_room(model: DiT, device: torch.device, blocks: Iterable[int]) -> None:
    """Memory on `device` for a model on the meta device; for the matrices of `blocks` host memory."""
    waiting = {id(layer.weight) for index in blocks for layer in matrices(model.blocks[index])}

    def room(each: Tensor) -> Tensor:
        return torch.empty_like(each, device="cpu" if id(each) in waiting else device)

    model._apply(room)  # type: ignore[no-untyped-call]  # `to_empty` is this with one device for all


def swap(model: DiT, device: torch.device, blocks: Sequence[int]) -> None:
    """Let the matrices of `blocks` wait where they are, in pinned memory if `device` is a GPU, and be copied when needed.

    They must be frozen, and the blocks be computed again in the backward pass, so that nothing of them is kept between.
    Call when they have their numbers. Parameters keep names, types and numbers.
    """
    if not blocks:
        return
    waiting = {index: _packed(matrices(model.blocks[index]), device) for index in blocks}
    device_side = _Rooms({index: packed.bytes for index, packed in waiting.items()}, device)
    for index, packed in waiting.items():
        for layer, place in zip(matrices(model.blocks[index]), packed.places, strict=True):
            layer.weight = nn.Parameter(place.of(packed.bytes), requires_grad=False)
            layer.fetch = _Fetch(device_side, index, place)


def rooms(model: DiT) -> list[Tensor]:
    """What `swap` took of the device."""
    fetches = (layer.fetch for layer in model.modules() if isinstance(layer, Linear))
    found = {id(fetch.rooms): fetch.rooms for fetch in fetches if isinstance(fetch, _Fetch)}
    return [room for each in found.values() for room in each.rooms]


@dataclass(frozen=True, slots=True)
class _Place:
    """Of one matrix among the bytes of its block."""

    start: int
    dtype: torch.dtype
    shape: torch.Size

    def of(self, room: Tensor) -> Tensor:
        """The matrix, a view."""
        stop = self.start + self.shape.numel() * self.dtype.itemsize
        return room[self.start : stop].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class _Packed:
    bytes: Tensor
    places: list[_Place]


def _packed(layers: Sequence[Linear], device: torch.device) -> _Packed:
    places, size = [], 0
    for layer in layers:
        places.append(_Place(size, layer.weight.dtype, layer.weight.shape))
        size += -(-layer.weight.nbytes // _ALIGNED) * _ALIGNED
    room = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for layer, place in zip(layers, places, strict=True):
        place.of(room).copy_(layer.weight.detach())
        layer.weight = nn.Parameter(
            place.of(room), requires_grad=False
        )  # so that one block at most is there twice
    return _Packed(room, places)


@dataclass(frozen=True, slots=True)
class _Fetch:
    """Gives one matrix of block `index`."""

    rooms: _Rooms
    index: int
    place: _Place

    def __call__(self) -> Tensor:
        return self.place.of(self.rooms.holding(self.index))


class _Rooms:
    """The device's side."""

    def __init__(self, waiting: Mapping[int, Tensor], device: torch.device) -> None:
        self._waiting, self._order = waiting, sorted(waiting)
        size = max(each.numel() for each in waiting.values())
        count = min(ROOMS, len(waiting))
        self.rooms = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        self._holds: list[int | None] = [None] * count
        self._at: int | None = None
        self._copies = _Copies(device)

    def holding(self, index: int) -> Tensor:
        """The room with block `index`; who enters a block waits for its copy and begins that of the next one."""
        if index != self._at:
            self._enter(index)
        return self.rooms[self._holds.index(index)]

    def _enter(self, index: int) -> None:
        upwards = self._at is None or index > self._at
        if index not in self._holds:
            left = 0 if self._at is None else self._holds.index(self._at)
            self._fill(len(self.rooms) - 1 - left, index)
        room = self._holds.index(index)
        self._copies.wait(room)
        self._at = index
        following = self._neighbour(index, upwards=upwards)
        if following not in self._holds:
            self._fill(1 - room, following)

    def _neighbour(self, index: int, *, upwards: bool) -> int:
        at, last = self._order.index(index), len(self._order) - 1
        if not last:
            return index
        turned = at == (last if upwards else 0)
        return self._order[at + (1 if upwards != turned else -1)]

    def _fill(self, room: int, index: int) -> None:
        self._holds[room] = index
        self._copies.begin(room, self.rooms[room], self._waiting[index])


class _Copies:
    """Copies beside the computation on a GPU; elsewhere at once."""

    def __init__(self, device: torch.device) -> None:
        self._stream = (
            torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        )
        self._done: dict[int, torch.cuda.Event] = {}

    def begin(self, room: int, target: Tensor, source: Tensor) -> None:
        """Copy when all that was begun before is done: it may read what is overwritten."""
        if self._stream is None:
            target[: source.numel()].copy_(source)
            return
        self._stream.wait_stream(torch.cuda.current_stream(target.device))
        with torch.cuda.stream(self._stream):
            target[: source.numel()].copy_(source, non_blocking=True)
            self._done[room] = self._stream.record_event()

    def wait(self, room: int) -> None:
        """Let what is begun from now on see the copy."""
        if (done := self._done.get(room)) is not None:
            torch.cuda.current_stream().wait_event(done)
