"""Commands by hand say what they have to say wherever standard output and error lead, or end as others do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mochi_trainer import streams
from tests.trainer.preprocessing_runs import write_source

CHECK = ["--check", "--frames", "7", "--width", "48", "--height", "32", "--preset", "nano"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_source(tmp_path / "clips")
    return tmp_path / "clips"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mochi_trainer", *arguments]


@pytest.mark.parametrize(
    "arguments", [["preprocess", "clips", *CHECK], ["cache", "."]], ids=["lines", "a text"]
)
def test_a_reader_that_has_gone_ends_a_command_without_a_word(arguments: list[str], clips: Path) -> None:
    (clips.parent / "cache").mkdir()
    (clips.parent / "cache" / "something").touch()
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            _command(*arguments), cwd=clips.parent, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False
        )  # fmt: skip
    finally:
        os.close(writing)
    assert done.returncode == streams.READER_GONE, done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_fault(closed: str, clips: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *_command("preprocess", "clips", *CHECK)]
    assert subprocess.run(command, cwd=clips.parent, timeout=120, check=False).returncode == 0


def test_signs_that_an_encoding_lacks_are_written_out(clips: Path) -> None:
    (clips / "bunny.mp4").rename(clips / "ж.mp4")
    (clips / "bunny.txt").rename(clips / "ж.txt")
    done = subprocess.run(
        _command("preprocess", "clips", *CHECK), cwd=clips.parent, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb'{"name": "\u0436.mp4"' in done.stdout
