"""What a volume has and does not give out is told where people look: in the message of the stage and in the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mochi_trainer.errors import DatasetRejectedError
from mochi_trainer.jobs import trim
from mochi_trainer.storage import open_store
from tests.trainer.preprocessing_runs import run_file, write_source

STAGE = """
import json, os, sys
from pathlib import Path
from mochi_trainer.jobs.left_out import LeftOut
from mochi_trainer.jobs.source_clips import dataset_objects
from mochi_trainer.storage import open_store
from tests.trainer.preprocessing_runs import run_file
run, left = run_file(Path(sys.argv[1])), LeftOut()
os.setgid(12345)
os.setuid(12345)
keys = [info.key for info in dataset_objects(open_store(run.locations.dataset, run.s3), run, left)]
print(json.dumps([keys, left.told()]))
"""
"""What the user of a pod finds in a dataset, and is told of it."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "source")
    return tmp_path / "source"


def broken(source: Path) -> None:
    """One of each kind that can be missed, and what nobody misses."""
    (source / "gone.mp4").symlink_to("nowhere.mp4")
    (source / "gone.txt").symlink_to(source / "nowhere.txt")
    (source / "round.mov").symlink_to("round.mov")
    (source / "more").mkdir()
    (source / "more" / "up").symlink_to(source)
    (source / "notes.pdf").symlink_to("nowhere.pdf")
    (source / ".hidden.mp4").symlink_to("nowhere.mp4")


def test_links_that_lead_to_nothing_or_back_are_counted_and_named(source: Path) -> None:
    broken(source)
    done = trim.execute(run_file(source.parent))
    assert done.message.endswith(
        "; 4 files or folders cannot be read: 1 linked back to a folder above (such as more/up), "
        "3 linked to nothing (such as gone.mp4)"
    )
    assert done.details["unlisted"] == {"linked back to a folder above": 1, "linked to nothing": 3}
    assert "leftOut" not in done.details
    assert done.result.items_total == 2


def test_they_are_told_where_all_else_is_missing(source: Path) -> None:
    for file in source.iterdir():
        file.unlink()
    broken(source)
    with pytest.raises(
        DatasetRejectedError, match=r"nothing is there; 4 files or folders cannot be read: 1 linked"
    ):
        trim.execute(run_file(source.parent))


def test_a_dataset_in_order_says_nothing_of_it(source: Path) -> None:
    (source / "lost+found").mkdir()
    done = trim.execute(run_file(source.parent))
    assert "cannot be read" not in done.message
    assert "unlisted" not in done.details


@pytest.mark.skipif(os.getuid() != 0, reason="root alone makes a folder of another user")
def test_a_folder_without_permission_is_counted_and_named() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are root's alone
        root = Path(name)
        root.chmod(0o755)
        write_source(root / "source")
        write_source(root / "source" / "theirs")
        (root / "source" / "theirs").chmod(0o700)
        child = subprocess.run(
            [sys.executable, "-c", STAGE, str(root)], capture_output=True, text=True, timeout=120, check=False
        )
    assert child.returncode == 0, child.stderr
    keys, told = json.loads(child.stdout)
    assert keys
    assert not any(key.startswith("theirs/") for key in keys)
    assert told == ["1 file or folder cannot be read: 1 without permission to be read (such as theirs)"]


def test_the_store_tells_each_once_however_often_it_is_listed(source: Path) -> None:
    broken(source)
    store = open_store(f"file://{source}", run_file(source.parent).s3)
    assert store.unlisted() == []
    for _ in range(2):
        list(store.list())
    first = store.unlisted()
    assert [entry.key for entry in first] == [
        ".hidden.mp4",
        "gone.mp4",
        "gone.txt",
        "more/up",
        "notes.pdf",
        "round.mov",
    ]
