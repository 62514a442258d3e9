"""Fills tensors from files piece by piece: the host never holds more than a few pieces besides the tensors themselves.

First the plan, which is pure: which bytes of which file, in which order, and which numbers of the model they become. Numbers
of a tensor are counted in row-major order, so rows of the first dimension are one span.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from mochi_trainer.movement import PROCESS
from mochi_trainer.weights.checksums import Check, expected_digest
from mochi_trainer.weights.contents import Contents, Located
from mochi_trainer.weights.diffusers_layout import Segment
from mochi_trainer.weights.progress import Progress
from mochi_trainer.weights.stored import PIECE_BYTES, TYPES, StoredFile, WeightsError

AHEAD = 8
"""Reads under way while one is being copied: one connection to S3 is slower than the network."""


class Span(NamedTuple):
    """Numbers that lie together in a file and go to one place of one tensor."""

    file: StoredFile
    origin: str
    """Name in the file."""
    start: int
    """Byte of the file."""
    target: str
    """Published name."""
    first: int
    """Place in the target, counted in numbers."""
    numbers: int
    dtype: str

    @property
    def length(self) -> int:
        """Bytes."""
        return self.numbers * TYPES[self.dtype].itemsize


class Read(NamedTuple):
    """One range of one file."""

    file: StoredFile
    start: int
    length: int
    spans: tuple[Span, ...]
    """One after the other, without a gap."""


def reads(
    tensors: Mapping[str, Located],
    segments: Mapping[str, Sequence[Segment]],
    wanted: Mapping[str, range],
    piece: int = PIECE_BYTES,
) -> list[Read]:
    """The reads of at most `piece` bytes, in the order of the files, that bring the `wanted` numbers of each target."""
    found = [
        span
        for target, numbers in wanted.items()
        for whole in _overlaps(target, segments[target], numbers, tensors)
        for span in _cut(whole, piece)
    ]
    found.sort(key=lambda span: (span.file.key, span.start))
    return list(_joined(found, piece))


def _overlaps(
    target: str, segments: Sequence[Segment], numbers: range, tensors: Mapping[str, Located]
) -> Iterator[Span]:
    before = 0
    for segment in segments:
        first, last = max(numbers.start, before), min(numbers.stop, before + segment.numbers)
        if first < last:
            file, listed = tensors[segment.name]
            item = TYPES[listed.dtype].itemsize
            start = listed.start + (segment.first + first - before) * item
            yield Span(file, segment.name, start, target, first - numbers.start, last - first, listed.dtype)
        before += segment.numbers


def _cut(span: Span, piece: int) -> Iterator[Span]:
    item = TYPES[span.dtype].itemsize
    most = max(1, piece // item)
    for done in range(0, span.numbers, most):
        yield span._replace(
            start=span.start + done * item, first=span.first + done, numbers=min(most, span.numbers - done)
        )


def _joined(spans: Iterable[Span], piece: int) -> Iterator[Read]:
    """Neighbours in one read, so that small tensors cost no request each."""
    held: list[Span] = []
    for span in spans:
        if held and not _fits(held, span, piece):
            yield _read(held)
            held = []
        held.append(span)
    if held:
        yield _read(held)


def _fits(held: Sequence[Span], span: Span, piece: int) -> bool:
    last = held[-1]
    follows = span.file.key == last.file.key and span.start == last.start + last.length
    return follows and span.start + span.length - held[0].start <= piece


def _read(spans: Sequence[Span]) -> Read:
    first, last = spans[0], spans[-1]
    return Read(first.file, first.start, last.start + last.length - first.start, tuple(spans))


def whole_files(plan: Sequence[Read], starts: Mapping[str, int]) -> set[str]:
    """The files, by key, of which `plan` brings every byte after the header, which ends where `starts` says."""
    reached = dict(starts)
    sizes = {}
    for read in plan:
        sizes[read.file.key] = read.file.size
        if reached[read.file.key] == read.start:
            reached[read.file.key] += read.length
    return {key for key, size in sizes.items() if reached[key] == size}


class Kept(NamedTuple):
    """The part of a tensor that this process keeps."""

    tensor: Tensor
    """To be filled; contiguous, on any device, in the type in which it is kept."""
    first_row: int = 0
    """The row of the whole tensor with which it begins."""

    @property
    def numbers(self) -> range:
        """The same in numbers of the whole tensor."""
        columns = self.tensor[:1].numel() if self.tensor.ndim and len(self.tensor) else 0
        first = self.first_row * columns
        return range(first, first + self.tensor.numel())


@torch.no_grad()
def fill(kept: Mapping[str, Kept], contents: Contents, what: str) -> None:
    """Give each tensor, by published name, its numbers; only the bytes that are needed are read.

    Raises WeightsError when a file ends early, changed, differs from its checksum (which is compared for files of which
    every byte is needed), or has a number that is not finite in the type in which it is kept; and what the store raises.
    """
    plan = reads(contents.tensors, contents.segments, {name: part.numbers for name, part in kept.items()})
    flat = {name: part.tensor.detach().view(-1) for name, part in kept.items()}
    checks = _checks(contents, plan)
    progress = Progress(what, sum(read.length for read in plan))
    for read, data in _ahead(plan):
        if check := checks.get(read.file.key):
            check.add(data)
        _copy(read, data, flat)
        progress.add(read.length)
        PROCESS.moved(read.length)
    for check in checks.values():
        check.finish()
    for file, _ in contents.headers:
        file.check_unchanged()
    progress.finish(len(kept), f"{len(checks)} of {len(contents.headers)} files compared")


def _checks(contents: Contents, plan: Sequence[Read]) -> dict[str, Check]:
    """By key, the checks of those files that are read whole and have a checksum; their headers are in already."""
    whole = whole_files(plan, {file.key: header.start for file, header in contents.headers})
    checks = {}
    for file, header in contents.headers:
        if file.key in whole and (expected := expected_digest(file)):
            checks[file.key] = check = Check(file, expected)
            check.add(file.read(0, header.start))
    return checks


def _ahead(plan: Iterable[Read]) -> Iterator[tuple[Read, bytes]]:
    """The reads with their bytes, in order, while the next ones are under way."""
    rest = iter(plan)
    under_way: deque[tuple[Read, Future[bytes]]] = deque()
    with ThreadPoolExecutor(AHEAD, "weights") as pool:
        try:
            while True:
                for read in islice(rest, AHEAD - len(under_way)):
                    under_way.append((read, pool.submit(read.file.read, read.start, read.length)))
                if not under_way:
                    return
                read, future = under_way.popleft()
                yield read, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _copy(read: Read, data: bytes, flat: Mapping[str, Tensor]) -> None:
    view = memoryview(data)
    for span in read.spans:
        start = span.start - read.start
        numbers = torch.frombuffer(bytearray(view[start : start + span.length]), dtype=TYPES[span.dtype])
        place = flat[span.target][span.first : span.first + span.numbers]
        place.copy_(numbers)
        if not _finite(place):
            raise _not_finite(span, place)


def _finite(numbers: Tensor) -> bool:
    """Whether all are finite; NaN is passed on by aminmax, which takes a thirtieth of the time of isfinite on a CPU."""
    return all(math.isfinite(bound) for bound in torch.aminmax(numbers))


def _not_finite(span: Span, place: Tensor) -> WeightsError:
    kind = str(place.dtype).removeprefix("torch.")
    return WeightsError(
        f"{span.origin} in {span.file.name} has a number that is not finite in {kind}: "
        "the file was altered or damaged, or its numbers are too large for this type"
    )
