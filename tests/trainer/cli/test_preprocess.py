"""The command preprocess: clips looked at and embedded without a run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.__main__ import main
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
    code = main(["preprocess", str(folder), "--check", *SIZE, "--max-failed-items-percent", "50"])
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
