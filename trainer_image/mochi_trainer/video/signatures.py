"""What a file is that is no MP4 or MOV, told by its first bytes: only to name it, nothing is read of it."""

from __future__ import annotations

import codecs
import shlex
from pathlib import PurePosixPath

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError

HEAD = 512
"""First bytes of a file that are looked at."""

Signs = tuple[tuple[int, bytes, str], ...]
"""(offset, bytes, name)."""

VIDEO: Signs = (
    (0, b"\x1aE\xdf\xa3", "matroska or webm"),
    (8, b"AVI ", "avi"),
    (0, b"FLV", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg-ps"),
    (0, b"\x00\x00\x01\xb3", "mpeg"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "wmv or asf"),
    (0, b"GIF8", "gif"),
    (0, b"DKIF", "ivf"),
    (0, b"\x06\x0e\x2b\x34", "mxf"),
    (0, b"YUV4MPEG2", "yuv4mpeg"),
    (0, b".RMF", "realmedia"),
    (0, b"\x00\x00\x00\x01", "a raw stream"),
    (0, b"\x00\x00\x01\x67", "a raw stream"),
    (0, b"\x00\x00\x01\x27", "a raw stream"),
    (0, b"\x00\x00\x01\x09", "a raw stream"),
    (0, b"\x00\x00\x01\x40\x01", "a raw stream"),
    (0, b"\x00\x00\x01\xb0", "a raw stream"),
)
"""What ffmpeg turns into an MP4."""

STILL: Signs = (
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (4, b"JXL ", "a JPEG XL picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"8BPS", "a Photoshop picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"SDPX", "a DPX picture"),
    (8, b"WAVE", "sound (WAV)"),
    (0, b"ID3", "sound (MP3)"),
    (0, b"fLaC", "sound (FLAC)"),
)
"""Pictures and sounds: nothing that moves."""

OTHER: Signs = (
    (0, b"PK\x03\x04", "a ZIP archive: unpack it"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it"),
    (0, b"Rar!", "a RAR archive: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (0, b"\xfd7zXZ", "an xz archive: unpack it"),
    (0, b"BZh", "a bzip2 archive: unpack it"),
    (257, b"ustar", "a tar archive: unpack it"),
    (0, b"\x00\x05\x16\x07", "what macOS notes of a file (AppleDouble), not the file: copy that"),
)

TEXTS: tuple[tuple[str, str], ...] = (
    ("version https://git-lfs", "a Git LFS pointer in place of the file: fetch it with git lfs pull"),
    ("/annex/objects/", "a git-annex pointer in place of the file: fetch it with git annex get"),
    ("# xet version", "a Xet pointer in place of the file: fetch it with git xet or huggingface_hub"),
    ("<?xml", "an XML text"),
    ("<!doctype", "an HTML page"),
    ("<html", "an HTML page"),
    ("%pdf", "a PDF document"),
)
"""(beginning in small letters, name): of a text in any encoding of Unicode, blanks before it left out."""

QUOTED = 40
"""Characters of a text that are shown of it."""

TELLING = 9
"""Characters of a text from which on they are shown: fewer tell nothing."""

DOUBLE_QUOTED = frozenset('"$`\\!')
"""Characters that mean something in a shell between double quotes."""

PACKET = 188
"""Bytes from one sign of an MPEG transport stream to the next; four more in an M2TS."""


def convert_command(name: str, *, in_place: bool = False) -> str:
    """The command that makes an MP4 of any video file; `in_place` puts it where the file was, under its name."""
    path = PurePosixPath(name)
    made = f"{path.stem}.{'new.' if in_place else ''}mp4"
    command = f"ffmpeg -i {_argument(path.name)} -c:v libx264 -crf 16 -pix_fmt yuv420p -an {_argument(made)}"
    return f"{command} && mv {_argument(made)} {_argument(path.name)}" if in_place else command


def _argument(name: str) -> str:
    """A file's name for a shell and for ffmpeg, which takes one with a dash for an option and one with a colon for an address."""
    plain = f"./{name}" if name.startswith("-") or ":" in name else name
    return shlex.quote(plain) if DOUBLE_QUOTED & set(plain) or not plain.isprintable() else f'"{plain}"'


def foreign(head: bytes, name: str) -> ClipError:
    """What to say of a file called `name` that begins with `head` (`HEAD` bytes) and is no MP4 or MOV."""
    text = _text(head)
    if (video := _first(VIDEO, head) or _transport(head)) is not None and not text:
        return ClipError(
            f"not MP4 or MOV but {video}; convert it: {convert_command(name, in_place=True)}",
            ClipReason.UNSUPPORTED,
        )
    if (still := _first(STILL, head)) is not None and not text:
        return ClipError(f"not MP4 or MOV but {still}", ClipReason.NO_VIDEO_STREAM)
    if (other := _named(text) or _first(OTHER, head)) is not None:
        return ClipError(f"not MP4 or MOV but {other}", ClipReason.CORRUPT)
    if not any(head):
        return ClipError("cannot be read as MP4 or MOV: it begins with zeros", ClipReason.CORRUPT)
    shown = text if len(text) <= QUOTED else f"{text[:QUOTED]}…"
    return ClipError(
        "cannot be read as MP4 or MOV: invalid data found at the beginning of the file"
        f"{f', which is a text, {shown!r}' if len(text) >= TELLING else ''}",
        ClipReason.CORRUPT,
    )


def _first(table: Signs, head: bytes) -> str | None:
    return next((name for offset, sign, name in table if head[offset:].startswith(sign)), None)


def _transport(head: bytes) -> str | None:
    """An MPEG transport stream, by the sign of its first packets as far as these are there."""
    for offset, name in ((0, "mpeg-ts"), (4, "mpeg-ts (m2ts)")):
        signs = head[offset :: PACKET + offset]
        if signs and set(signs) == {0x47}:
            return name
    return None


def _text(head: bytes) -> str:
    """What the head says on one line when it is a text of at least two characters; empty of anything else."""
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
    try:
        words = decoder.decode(head).split()  # a letter may be cut off at the end
    except UnicodeDecodeError:
        return ""
    text = " ".join(words)
    return text if len(text) > 1 and text.isprintable() else ""


def _named(text: str) -> str | None:
    return next((name for start, name in TEXTS if text.lower().startswith(start)), None)
