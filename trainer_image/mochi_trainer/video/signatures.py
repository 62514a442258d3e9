"""What a file is that is no MP4 or MOV, told by its first bytes: only to name it, nothing is read of it."""

from __future__ import annotations

from pathlib import PurePosixPath

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError

VIDEO: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1aE\xdf\xa3", "matroska or webm"),
    (8, b"AVI ", "avi"),
    (0, b"FLV", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg-ps"),
    (0, b"\x00\x00\x01\xb3", "mpeg"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "wmv or asf"),
    (0, b"GIF8", "gif"),
    (4, b"\x47", "mpeg-ts (m2ts)"),
    (0, b"\x47", "mpeg-ts"),
    (0, b"DKIF", "ivf"),
    (0, b"\x06\x0e\x2b\x34", "mxf"),
    (0, b"\x00\x00\x00\x01", "a raw stream"),
)
"""(offset, bytes, name) of what ffmpeg turns into an MP4."""

STILL: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
)
OTHER: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file: fetch it with git lfs pull"),
    (0, b"<?xml", "an XML text"),
    (0, b"<!DOCTYPE", "an HTML page"),
    (0, b"<html", "an HTML page"),
    (0, b"PK\x03\x04", "a ZIP archive: unpack it"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
)


def convert_command(name: str) -> str:
    """The command that makes an MP4 of any video file."""
    stem = PurePosixPath(name).stem
    return f'ffmpeg -i "{PurePosixPath(name).name}" -c:v libx264 -crf 16 -pix_fmt yuv420p -an "{stem}.mp4"'


def foreign(head: bytes, name: str) -> ClipError:
    """What to say of a file called `name` that begins with `head` and is no MP4 or MOV."""
    if (video := _first(VIDEO, head)) is not None:
        return ClipError(
            f"not MP4 or MOV but {video}; convert it: {convert_command(name)}", ClipReason.UNSUPPORTED
        )
    if (still := _first(STILL, head)) is not None:
        return ClipError(f"not MP4 or MOV but {still}", ClipReason.NO_VIDEO_STREAM)
    if (other := _first(OTHER, head)) is not None:
        return ClipError(f"not MP4 or MOV but {other}", ClipReason.CORRUPT)
    if not any(head):
        return ClipError("cannot be read as MP4 or MOV: it begins with zeros", ClipReason.CORRUPT)
    return ClipError(
        "cannot be read as MP4 or MOV: invalid data found at the beginning of the file", ClipReason.CORRUPT
    )


def _first(table: tuple[tuple[int, bytes, str], ...], head: bytes) -> str | None:
    return next((name for offset, sign, name in table if head[offset:].startswith(sign)), None)
