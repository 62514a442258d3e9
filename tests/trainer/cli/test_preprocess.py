"""The command preprocess: clips looked at and embedded without a run file."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.__main__ import main
from mochi_trainer.jobs.preprocess_by_hand import bar
from mochi_trainer.storage import open_store, read_manifest
from tests.trainer.preprocessing_runs import write_source

SIZE = ["--frames", "7", "--width", "48", "--height", "32", "--preset", "nano"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_source(tmp_path / "clips")
    return tmp_path / "clips"


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}


def test_check_tells_of_each_clip_and_keeps_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    (folder / "broken.txt").write_text("broken")
    (folder / "dumb.mp4").write_bytes((folder / "bunny.mp4").read_bytes())
    before = sorted(folder.parent.rglob("*"))
    tolerant = ["--missing-caption", "Skip", "--max-failed-items-percent", "34"]
    code = main(["preprocess", str(folder), "--check", *SIZE, *tolerant])
    told = lines(capsys)
    assert code == 0
    assert told["bunny.mp4"]["frames"] == 7
    assert told["broken.mp4"]["reason"] in {"Corrupt", "Unsupported"}
    assert told["dumb.mp4"]["reason"] == "MissingCaption"
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["my clips", "my%20clips", "100%", "%41", "#1?"])
def test_a_folder_may_have_any_name(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = folder.rename(folder.parent / name)
    assert main(["preprocess", str(odd), "--check", *SIZE]) == 0
    assert set(lines(capsys)) == {"bunny.mp4", "carphone.MOV"}


def test_check_fails_like_the_stage_where_too_many_clips_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    (folder / "broken.txt").write_text("broken")
    assert main(["preprocess", str(folder), "--check", *SIZE]) == 4
    assert set(lines(capsys)) == {"broken.mp4", "bunny.mp4", "carphone.MOV"}


@pytest.mark.parametrize("caption", [None, "  ", "\ufeff"], ids=["none", "blanks", "a mark"])
@pytest.mark.parametrize(("missing", "code"), [("Fail", 3), ("Skip", 0), ("Empty", 0)])
def test_check_and_stages_agree_on_a_caption_that_is_missing(
    missing: str,
    code: int,
    caption: str | None,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "dumb.mp4").write_bytes((folder / "bunny.mp4").read_bytes())
    if caption is not None:
        (folder / "dumb.txt").write_text(caption)
    options = [*SIZE, "--missing-caption", missing, "--max-failed-items-percent", "0"]
    assert main(["preprocess", str(folder), "--check", *options]) == code
    told = lines(capsys)
    assert ("reason" in told["dumb.mp4"]) == (missing != "Empty")
    assert {"bunny.mp4", "carphone.MOV"} < set(told), "the others are looked at all the same"
    assert main(["preprocess", str(folder), "--out", str(tmp_path / "out"), *options]) == code


def test_check_refuses_clips_of_which_skip_leaves_none(folder: Path) -> None:
    for caption in folder.glob("*.txt"):
        caption.unlink()
    assert main(["preprocess", str(folder), "--check", *SIZE, "--missing-caption", "Skip"]) == 4


def test_all_three_stages_are_made_and_then_reused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["preprocess", str(folder), "--out", str(tmp_path / "out"), *SIZE]
    assert main(command) == 0
    told = lines(capsys)
    assert list(told) == ["trim", "captions", "videos"]
    store = open_store(f"file://{tmp_path}/out/cache", S3Spec())
    assert read_manifest(store, f"videos/{told['videos']['key']}").details["clips"] == ["bunny", "carphone"]
    assert main(command) == 0
    assert all(line["message"].startswith("reused") for line in lines(capsys).values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "either --out ADDRESS or --check"),
        (["--check", "--out", "x"], "either --out ADDRESS or --check"),
        (["--check", "--frames", "3"], "frames"),
        (
            ["--check", "--max-per-clip", "2"],
            "--max-per-clip must be 1 unless --segments is Even or Cuts, got 2",
        ),
        (["--check", "--segments", "Cuts", "--max-per-clip", "65"], "--max-per-clip: "),
    ],
)
def test_what_makes_no_sense_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["preprocess", str(folder), *options]) == 2
    assert words in capsys.readouterr().err


def test_check_tells_of_each_segment_and_of_those_that_are_alike(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "copy.mp4").write_bytes((folder / "bunny.mp4").read_bytes())
    (folder / "copy.txt").write_text("the same again")
    segments = ["--segments", "Even", "--max-per-clip", "2"]
    assert main(["preprocess", str(folder), "--check", *SIZE, *segments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [
        *(f"{clip}#{k:02d}" for clip in ("bunny.mp4", "carphone.MOV", "copy.mp4") for k in range(2)),
        "copy.mp4#00",
        "copy.mp4#01",
    ]
    assert all(row["frames"] == 7 and row["start"] > 0 for row in rows[:6])
    assert [row["warnings"] for row in rows[6:]] == [
        {"NearDuplicate": f"shows nearly the same as bunny.mp4#0{k}"} for k in range(2)
    ]


def told_error(capsys: pytest.CaptureFixture[str]) -> str:
    (*_, last) = capsys.readouterr().err.splitlines()
    return str(json.loads(last)["message"])


@pytest.mark.parametrize(
    ("clips", "options", "code", "words"),
    [
        ("nowhere", ["--check"], 3, "there is no folder {0}/nowhere"),
        ("clips/bunny.mp4", ["--check"], 3, "{0}/clips/bunny.mp4 is a file: name the folder"),
        ("", ["--check"], 2, "the folder of the clips must be a folder or s3://bucket/prefix, got ''"),
        ("http://host/x", ["--check"], 2, "must be a folder or s3://bucket/prefix, got 'http://host/x'"),
        ("hf://team/x", ["--check"], 2, "must be a folder or s3://bucket/prefix, got 'hf://team/x'"),
        ("clips", ["--out", ""], 2, "--out must be a folder or s3://bucket/prefix, got ''"),
        ("clips", ["--out", "ftp://host/x"], 2, "--out must be a folder or s3://bucket/prefix, got 'ftp:"),
        ("clips", ["--out", "{0}/clips/bunny.mp4"], 2, "--out must be a folder, and {0}/clips/bunny.mp4 is"),
        ("clips", ["--out", "{0}/clips/bunny.mp4/x/y"], 2, "--out must be a folder, and {0}/clips/bunny.mp4"),
        ("clips", ["--check", "--model", "hf://team/none"], 3, "hf://team/none is not in the hub cache"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], clips: str, options: list[str], code: int, words: str
) -> None:
    root = folder.parent
    where = str(root / clips) if clips and "://" not in clips else clips
    given = [option.format(root) for option in options]
    assert main(["preprocess", where, *given, *SIZE]) == code
    message = told_error(capsys)
    assert words.format(root) in message
    assert "under a new name" not in message
    assert sorted(path.name for path in root.iterdir()) == ["clips"]


@pytest.mark.parametrize("what", [("--check",), ("--out", "OUT")])
def test_lengths_that_no_run_takes_are_refused_before_any_work(
    what: tuple[str, ...], folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [str(tmp_path / "out") if word == "OUT" else word for word in what]
    code = main(["preprocess", str(folder), *options, "--preset", "nano", "--frames", "12"])
    assert code == 2
    assert (
        "--frames must be 1 more than a multiple of 6, got 12; the nearest are 7 and 13"
        in capfd.readouterr().err
    )


def test_what_helps_is_said_in_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no spec, no pod and nothing to apply."""
    assert main(["preprocess", str(folder), "--check", *SIZE, "--frames", "163"]) == 4
    assert told_error(capsys).endswith(
        "what to do: use longer clips or fewer --frames, and run the command again"
    )
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    (folder / "broken.txt").write_text("broken")
    assert main(["preprocess", str(folder), "--check", *SIZE]) == 4
    message = told_error(capsys)
    assert "more than --max-failed-items-percent = 10 allows" in message
    assert "or raise --max-failed-items-percent to at least 34, and run the command again" in message
    (folder / "broken.txt").rename(folder / "broken.mp4.txt")
    assert main(["preprocess", str(folder), "--out", str(folder.parent / "out"), *SIZE]) == 3
    assert "set --missing-caption to Empty or Skip" in told_error(capsys)
    for path in folder.iterdir():
        path.unlink()
    (folder / "a.png").write_bytes(b"x")
    assert main(["preprocess", str(folder), "--check", *SIZE]) == 4
    assert told_error(capsys).endswith("or correct the folder's name, and run the command again")


def test_check_names_a_caption_that_is_called_otherwise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bunny.txt").rename(folder / "bunny.mp4.txt")
    (folder / "carphone.txt").write_text(" ")
    assert main(["preprocess", str(folder), "--check", *SIZE]) == 3
    told = {name: line["message"] for name, line in lines(capsys).items()}
    assert told["bunny.mp4"] == "bunny.txt does not exist, but bunny.mp4.txt is there"
    assert told["carphone.MOV"] == "carphone.txt has no words"


@pytest.mark.parametrize("name", [b"a%20b", b"50% off", b"a?b#c", "é".encode(), b"x\xff"])
def test_folders_have_any_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    """A name is no address: in one, %20 is a blank."""
    clips, out = tmp_path / os.fsdecode(name), tmp_path / os.fsdecode(b"out-" + name)
    folder.rename(clips)
    (tmp_path / "a b").mkdir()
    assert main(["preprocess", str(clips), "--check", *SIZE]) == 0
    assert len(lines(capsys)) == 2
    assert main(["preprocess", str(clips), "--out", str(out), *SIZE]) == 0
    assert (out / "cache" / "videos").is_dir()


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_is_no_clips_fault(folder: Path, tmp_path: Path, terminal: bool) -> None:
    """Readers are ended with the work, and nothing is said of the clips that they had."""
    for number in range(60):
        (folder / f"{number}.mp4").write_bytes((folder / "bunny.mp4").read_bytes())
        (folder / f"{number}.txt").write_text("a rabbit")
    ours, theirs = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "mochi_trainer", "preprocess", str(folder), "--check", *SIZE]
    with subprocess.Popen(
        command,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        os.close(theirs)
        said, stopped = b"", False
        with suppress(OSError):  # a terminal whose other end is closed
            while data := os.read(ours, 1 << 16):
                said += data
                if not stopped and said.count(b"7 frames") >= 2:
                    stopped = True
                    os.killpg(process.pid, signal.SIGINT)
        code = process.wait(timeout=60)
    os.close(ours)
    assert code == 143
    assert b"interrupted; what to do: run the command again" in said
    assert b"want of memory" not in said
    assert b"Traceback" not in said
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mochi-check-")] == []


def test_a_name_is_no_order_to_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bunny.mp4").rename(folder / "a\x1b[2J\n.mp4")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["preprocess", str(folder), "--check", *SIZE, "--missing-caption", "Empty"]) == 0
    assert r"✓ a\x1b[2J\n.mp4  7 frames" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (80, "[###############...............] 5 of 10"),
        (20, "[####.....] 5 of 10"),
        (12, "5 of 10"),
        (0, "5 of 10"),
    ],
)
def test_the_bar_stays_on_one_line(columns: int, shown: str) -> None:
    """One that is longer begins a new line with each step."""
    assert bar(5, 10, columns) == shown
    assert len(shown) < columns or columns < 8
