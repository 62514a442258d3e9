"""The command `footage`: a folder of real films to rows, clips, groups and captions, in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mochi_trainer.video import probe
from tests.trainer.footage.chat_server import said, serving, status
from tests.trainer.footage.material import bundled

CAPTION = "A man in a suit walks past parked cars."


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Two films, a copy of one of them in a subfolder, and what is no film or does not count."""
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    shutil.copy(bundled("bikes.mp4"), folder / "bikes.mp4")
    shutil.copy(bundled("bikes.mp4"), folder / "sub" / "bikes.MOV")
    shutil.copy(bundled("carphone_pristine.mp4"), folder / "call.m4v")
    shutil.copy(bundled("bikes.mp4"), folder / ".hidden" / "a.mp4")
    shutil.copy(bundled("bikes.mp4"), folder / "old.recon.mp4")
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("x")
    return folder


def command(*arguments: str | Path, code: int = 0, **environment: str) -> list[dict[str, Any]]:
    """Its lines on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "mochi_trainer", "footage", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    command.said = done.stderr  # type: ignore[attr-defined]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_films_are_told_one_json_object_a_line(films: Path) -> None:
    before = sorted(films.rglob("*"))
    rows = command(films)
    assert [row["film"] for row in rows] == ["bikes.mp4", "broken.mp4", "call.m4v", "sub/bikes.MOV"]
    assert rows[0] == {
        "film": "bikes.mp4",
        "size": "640x272",
        "fps": 25.0,
        "seconds": 10.0,
        "cuts": [[1.2, 1.2], [3.04, 3.04], [5.48, 5.48], [7.48, 7.48], [9.68, 9.68]],
        "segments": [],
        "warnings": [],
    }
    assert rows[1]["reason"] == "Corrupt"
    assert rows[2]["segments"] == [[0.752, 3.252]]
    assert sorted(films.rglob("*")) == before


def test_segments_become_clips_and_a_second_call_makes_none_again(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    options = [films, "--out", out, "--seconds", "1.24", "--drop-duplicates"]
    rows = command(*options)
    clips = sorted(path.name for path in out.iterdir())
    assert clips == [*(f"bikes-0{k}.mp4" for k in range(4)), *(f"call-0{k}.mp4" for k in range(3))]
    assert [row for row in rows if "keep" in row] == [
        {"warning": "NearDuplicate", "keep": "bikes.mp4", "others": ["sub/bikes.MOV"]}
    ]
    assert [row["clip"] for row in rows if "clip" in row] == clips
    found = probe(out / "bikes-00.mp4")
    assert (found.width, found.height, found.fps, round(found.seconds, 2)) == (640, 272, 25.0, 1.24)
    written = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    command(*options)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == written


def test_copies_are_told_but_kept_unless_they_are_to_be_dropped(films: Path, tmp_path: Path) -> None:
    command(
        films,
        "--out",
        tmp_path / "clips",
        "--seconds",
        "3",
        "--count",
        "1",
        "--segments",
        "even",
        "--duplicates",
    )
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [
        "bikes-00.mp4",
        "call-00.mp4",
        "sub_bikes-00.mp4",
    ]


def test_films_without_a_caption_get_one_by_an_endpoint(films: Path) -> None:
    (films / "call.txt").write_text("by hand")
    with serving(status(429, Retry_After="0"), said(CAPTION)) as script:
        rows = command(
            films,
            "--caption-url",
            script.url,
            "--caption-model",
            "eye",
            "--at-once",
            "1",
            MOCHI_CAPTION_KEY="k-1",
        )
    assert {row["clip"]: row["caption"] for row in rows if "caption" in row} == {
        "bikes.mp4": CAPTION,
        "bikes.MOV": CAPTION,
    }
    assert (films / "sub" / "bikes.txt").read_text() == f"{CAPTION}\n"
    assert (films / "call.txt").read_text() == "by hand"
    content = script.requests[-1]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", *["image_url"] * 4]
    assert script.headers[0]["Authorization"] == "Bearer k-1"


def test_a_wrong_key_ends_the_command_and_is_not_shown(films: Path) -> None:
    with serving(status(401, b"bad key")) as script:
        command(
            films, "--caption-url", script.url, "--caption-model", "eye", code=2, MOCHI_CAPTION_KEY="k-secret"
        )
    assert "the endpoint answers 401: bad key" in command.said  # type: ignore[attr-defined]
    assert "k-secret" not in command.said  # type: ignore[attr-defined]


ASKED = ["--caption-model", "eye", "--caption-url"]


def test_a_key_broken_over_two_lines_is_refused_and_not_shown(films: Path) -> None:
    command(films, *ASKED, "http://127.0.0.1:1", code=2, MOCHI_CAPTION_KEY="k-first\nk-second")
    assert "the key has a line break" in command.said  # type: ignore[attr-defined]
    assert "k-first" not in command.said  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--caption-url", "http://127.0.0.1:1/v1"], 2, "--caption-url and --caption-model go together"),
        (
            [*ASKED, "http://127.0.0.1:port/v1"],
            2,
            "--caption-url, or the key in MOCHI_CAPTION_KEY: Port could not be",
        ),
        ([*ASKED, "ftp://host"], 2, "must begin with http:// or https://"),
        (
            [*ASKED, "http://host", "--caption-key-variable", "NO_KEY"],
            2,
            "there is no variable NO_KEY in the environment",
        ),
        (["--drop-duplicates"], 2, "--drop-duplicates needs --out"),
        (["--seconds", "0"], 2, "must be positive, got 0, 4, 4"),
        (["--count", "0"], 2, "must be positive, got 2.5, 0, 4"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    films: Path, options: list[str], code: int, words: str
) -> None:
    assert command(films, *options, code=code) == []
    assert words in command.said  # type: ignore[attr-defined]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    command(tmp_path / "nothing", code=3)
    assert f"there is no folder {tmp_path}/nothing" in command.said  # type: ignore[attr-defined]


def test_footage_needs_no_torch() -> None:
    program = "import sys, mochi_trainer.jobs.footage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_person_on_a_terminal_sees_a_table(films: Path) -> None:
    (films / "sub" / "bikes.MOV").unlink()
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "mochi_trainer", "footage", str(films), "--seconds", "1.5"],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    os.close(theirs)
    lines = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    assert lines == [
        "film                             size        length    cuts  segments (seconds)",
        "bikes.mp4                        640x272     10.00 s   5     1.37-2.87 3.51-5.01 5.73-7.23 7.83-9.33",
        "broken.mp4: Corrupt: cannot be read as MP4 or MOV: invalid data found at the beginning of the file",
        "call.m4v                         176x144     4.00 s    0     0.25-1.75 2.25-3.75",
    ]
