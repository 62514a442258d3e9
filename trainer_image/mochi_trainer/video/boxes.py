"""The boxes of which an MP4 or MOV is made (ISO/IEC 14496-12, 4.2): a size, a type of four letters, the content."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator


def box_size(start: bytes, rest: int) -> tuple[int, bytes, int]:
    """Size and type of a box, and the size of its head, from its first 16 bytes; `rest` where it goes to the end."""
    size, kind = struct.unpack_from(">I4s", start)
    if size == 1 and len(start) >= 16:
        return int(struct.unpack_from(">Q", start, 8)[0]), kind, 16
    return (rest if size == 0 else size), kind, 8


def children(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of the boxes in `data`, as far as they are there."""
    position = 0
    while position + 8 <= len(data):
        size, kind, skip = box_size(data[position : position + 16].tobytes(), len(data) - position)
        if size < skip:
            return
        yield kind, data[position + skip : position + size]
        position += size


def below(data: memoryview, containers: Collection[bytes]) -> Iterator[tuple[bytes, memoryview]]:
    """As `children`, with those inside `containers` too; none of these is looked for inside itself."""
    for kind, content in children(data):
        yield kind, content
        if kind in containers:
            yield from below(content, [name for name in containers if name != kind])


def number(data: memoryview, offset: int) -> int:
    """Four bytes at `offset`, 0 where they are missing."""
    return int.from_bytes(data[offset : offset + 4], "big") if 0 <= offset <= len(data) - 4 else 0


def version(data: memoryview) -> int:
    """The first byte of a full box: 1 where its numbers have eight bytes."""
    return data[0] if len(data) else 0


def duration(content: memoryview) -> tuple[int, float]:
    """Units in a second and the seconds that an `mvhd` or `mdhd` claims; 0 for unknown, which is all ones too."""
    if version(content) == 1:
        scale, length, unknown = number(content, 20), long(content, 24), 2**64 - 1
    else:
        scale, length, unknown = number(content, 12), number(content, 16), 2**32 - 1
    return scale, 0.0 if length == unknown or not scale else length / scale


def indexed(sidx: memoryview) -> int:
    """Bytes behind a `sidx` that it says are there, in as many pieces as it has room for."""
    wide = version(sidx) == 1
    first, pieces = (long(sidx, 20), 28) if wide else (number(sidx, 16), 20)
    count = min(number(sidx, pieces) & 0xFFFF, max(0, len(sidx) - pieces - 4) // 12)
    return first + sum(number(sidx, pieces + 4 + 12 * place) & 0x7FFFFFFF for place in range(count))


def long(data: memoryview, offset: int) -> int:
    """Eight bytes at `offset`, 0 for what is missing."""
    return (number(data, offset) << 32) + number(data, offset + 4)
