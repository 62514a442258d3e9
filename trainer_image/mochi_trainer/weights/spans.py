"""The plan of reading: which bytes of which file, in which order, and which numbers of the model they become.

Pure: nothing is read here. Numbers of a tensor are counted in row-major order, so rows of the first dimension are one span.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mochi_trainer.weights.contents import TYPES, Located
from mochi_trainer.weights.diffusers_layout import Segment
from mochi_trainer.weights.stored import StoredFile

PIECE_BYTES = 8 * 1024 * 1024
"""Most bytes of one read: large enough for S3, small enough that several fit into any pod."""


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
