"""The series of a training as TensorBoard reads it: an event file, one event a step.

A file of TensorFlow's records: each has its length, a checksum of that, the bytes, and a checksum of these
(https://www.tensorflow.org/tutorials/load_data/tfrecord); the bytes are an `Event` of TensorBoard in the encoding of protocol
buffers. Written here, since the library for it brings a web server with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_POLYNOMIAL = 0x82F63B78
"""Of CRC-32C, bits reversed."""
_MASK = 0xA282EAD8
_BESIDES = ("step", "time", "checkpoint", "heldOutLevels")
"""Fields of a line that are no value of its step."""


def beginning(time: float) -> bytes:
    """What the file begins with; `time` is when the training did, in seconds of Unix time."""
    return _record(_wall_time(time) + _field(3, b"brain.Event:2"))


def event(line: Mapping[str, Any]) -> bytes:
    """The event of a line of `metrics.jsonl`: each of its numbers as a scalar `training/NAME`, of a list `training/NAME/0`
    and so on, without those that are null."""
    values = [
        _field(1, _field(1, f"training/{name}".encode()) + b"\x15" + struct.pack("<f", value))
        for name, value in scalars(line)
    ]
    step = b"\x10" + _varint(line["step"]) if line["step"] else b""  # zero is what a field that is absent has
    return _record(_wall_time(line.get("time", 0.0)) + step + _field(5, b"".join(values)))


def scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line of `metrics.jsonl` by name, those of a list as `NAME/0` and so on, without those that are null."""
    for name, value in line.items():
        if name in _BESIDES or value is None:
            continue
        if isinstance(value, list):
            yield from ((f"{name}/{place}", each) for place, each in enumerate(value) if each is not None)
        else:
            yield name, value


def _wall_time(seconds: float) -> bytes:
    return b"\x09" + struct.pack("<d", seconds)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, a text, or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def _table() -> Iterator[int]:
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        yield crc


_TABLE = tuple(_table())


class EventFile:
    """The whole file, of which only what is new is encoded again."""

    def __init__(self) -> None:
        self._events: dict[int, tuple[Mapping[str, Any], bytes]] = {}

    def content(self, lines: Iterable[Mapping[str, Any]]) -> bytes:
        """The file of `lines`, in the order of their steps."""
        given = list(lines)
        first = next((line["time"] for line in given if "time" in line), 0.0)
        return beginning(first) + b"".join(map(self._event, given))

    def _event(self, line: Mapping[str, Any]) -> bytes:
        known = self._events.get(line["step"])
        if known is not None and known[0] == line:
            return known[1]
        made = event(line)
        self._events[line["step"]] = dict(line), made
        return made
