"""What is no MP4 or MOV is told by its name, with what helps: a command that works as it stands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Limits
from mochi_trainer.video.header import read_header
from mochi_trainer.video.signatures import convert_command

TEXTS = {
    b"<!doctype html><html><head>": "an HTML page",
    b"\n\n  <!DOCTYPE HTML PUBLIC": "an HTML page",
    b"\xef\xbb\xbf<HTML lang=en>": "an HTML page",
    "<html><head>".encode("utf-16"): "an HTML page",
    b"<?xml version='1.0'?><Error/>": "an XML text",
    b"<Error><Code>AccessDenied</Code></Error>": "a text, '<Error><Code>AccessDenied</Code></Error>'",
    b'{"error": "not found"}': 'a text, \'{"error": "not found"}\'',
    b"Entry not found": "a text, 'Entry not found'",
    b"Gateway Timeout": "a text, 'Gateway Timeout'",
    b"404: Good bye": "a text, '404: Good bye'",
    b"BMW drives by": "a text, 'BMW drives by'",
    "die Brücke ".encode() * 60: "a text, 'die Brücke die Brücke die Brücke die Brü…'",
    b"version https://git-lfs.github.com/spec/v1\noid": "git lfs pull",
    b"/annex/objects/SHA256E-s123--aaa.mp4\n": "git annex get",
    b"# xet version 0\nfilesize = 1": "a Xet pointer",
}

OTHERS = {
    b"Rar!\x1a\x07\x01\x00": (ClipReason.CORRUPT, "a RAR archive: unpack it"),
    b"7z\xbc\xaf'\x1c\x00\x04": (ClipReason.CORRUPT, "a 7z archive: unpack it"),
    b"clip.mp4" + bytes(249) + b"ustar\x0000": (ClipReason.CORRUPT, "a tar archive: unpack it"),
    b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X": (ClipReason.CORRUPT, "AppleDouble"),
    b"BM\x36\x00\x0c\x00": (ClipReason.NO_VIDEO_STREAM, "a BMP picture"),
    b"II*\x00\x08\x00\x00\x00": (ClipReason.NO_VIDEO_STREAM, "a TIFF picture"),
    b"RIFF\x24\x00\x00\x00WAVEfmt ": (ClipReason.NO_VIDEO_STREAM, "sound (WAV)"),
    b"ID3\x04\x00\x00\x00\x00\x00\x21": (ClipReason.NO_VIDEO_STREAM, "sound (MP3)"),
    b"YUV4MPEG2 W96 H64\nFRAME\n\x10\x10": (ClipReason.UNSUPPORTED, "yuv4mpeg; convert it"),
    b"\x00\x00\x01\x67\x42\xc0": (ClipReason.UNSUPPORTED, "a raw stream; convert it"),
    (b"\x47\x40\x00\x10" + bytes(184)) * 3: (ClipReason.UNSUPPORTED, "mpeg-ts; convert it"),
    (bytes(4) + b"\x47\x40\x00\x10" + bytes(184)) * 3: (ClipReason.UNSUPPORTED, "mpeg-ts (m2ts); convert it"),
    b"\x47\x40\x00\x10" + bytes(1000): (ClipReason.CORRUPT, "invalid data found at the beginning"),
}


def refused(path: Path, content: bytes) -> ClipError:
    path.write_bytes(content)
    with pytest.raises(ClipError) as caught:
        read_header(path, Limits())
    return caught.value


@pytest.mark.parametrize(("content", "said"), TEXTS.items())
def test_a_text_in_place_of_a_clip_is_corrupt_and_shown(tmp_path: Path, content: bytes, said: str) -> None:
    error = refused(tmp_path / "clip.mp4", content)
    assert error.reason is ClipReason.CORRUPT
    assert said in str(error)


@pytest.mark.parametrize(("content", "expected"), OTHERS.items())
def test_other_files_are_named(tmp_path: Path, content: bytes, expected: tuple[ClipReason, str]) -> None:
    error = refused(tmp_path / "clip.mp4", content)
    assert error.reason is expected[0]
    assert expected[1] in str(error)


NAMES = [
    "a.mp4", "my clip.MOV", "-i.mp4", "a$HOME.mp4", "it's.m4v", 'a"b.mp4', "`id`.mp4", "a!b.mp4", "a\nb.mp4", "http:x.mov",
    "a\\b.mp4", "é.mp4", "a.b.mp4",
]  # fmt: skip


def ran(command: str, folder: Path) -> None:
    """Run a command with a program in the place of ffmpeg that copies what it is given, and takes no address."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "ffmpeg"
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\ncase "$2$last" in *:*.m*) case "$2" in ./*) ;; *) exit 7;; esac;; esac\n'
        '[ "$1" = -i ] && [ "$2" != "$last" ] && case "$last" in -*) exit 8;; esac\n'
        '[ "$2" != "$last" ] && cp -- "$2" "$last"\n'
    )
    program.chmod(0o755)
    path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, check=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_puts_an_mp4_in_the_place_of_a_clip_that_is_none(tmp_path: Path, name: str) -> None:
    """Beside it would be a second clip with the same caption, and ffmpeg writes no file that it reads."""
    error = refused(tmp_path / name, b"\x1aE\xdf\xa3" + bytes(9))
    ran(str(error).partition("convert it: ")[2], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "bin"])


@pytest.mark.parametrize("name", NAMES)
def test_the_command_makes_an_mp4_beside_another_container(tmp_path: Path, name: str) -> None:
    webm = Path(name).with_suffix(".webm").name
    (tmp_path / webm).write_bytes(b"x")
    ran(convert_command(webm), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [webm, "bin", Path(name).with_suffix(".mp4").name]
    )
