"""Folders as people have them, through the stage trim: what others leave in them is neither trained nor fatal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mochi_trainer.errors import MissingObjectError
from mochi_trainer.jobs import trim
from mochi_trainer.jobs.finished import Finished
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.video.clips import real_clip

SETTINGS = ("Fail", "Empty", "Skip")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A dataset of one real clip."""
    clip(tmp_path / "source" / "a.mp4")
    return tmp_path / "source"


def clip(path: Path, caption: str = "a rabbit") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(real_clip("bigbuckbunny.mp4"), path)
    path.with_suffix(".txt").write_text(caption)
    return path


def trimmed(source: Path, setting: str) -> Finished:
    return trim.execute(run_file(source.parent, missingCaption=setting))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_folder_that_genmos_fine_tuner_has_prepared_has_its_clips(source: Path, setting: str) -> None:
    shutil.copyfile(real_clip("bigbuckbunny.mp4"), source / "a.recon.mp4")
    for name in ("a.latent.pt", "a.embed.pt"):
        (source / name).write_bytes(b"tensor")
    done = trimmed(source, setting)
    assert (done.result.items_total, done.result.items_done) == (1, 1)
    assert done.message.startswith("made 1 of 1 clips; 1 video left out: 1 a reconstruction")
    assert list(done.details["leftOut"].values()) == [1]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "folder", [".ipynb_checkpoints", ".Trash-1000/files", "__MACOSX", "@eaDir", "lost+found"]
)
@pytest.mark.parametrize("with_caption", [True, False])
def test_copies_in_folders_of_the_system_are_no_clips(
    source: Path, setting: str, folder: str, with_caption: bool
) -> None:
    copy = clip(source / folder / "a-checkpoint.mp4")
    if not with_caption:
        copy.with_suffix(".txt").unlink()
    assert trimmed(source, setting).result.items_total == 1


@pytest.mark.parametrize("blank", [b" \n", b"\xef\xbb\xbf"])
def test_a_caption_of_blanks_is_none(source: Path, blank: bytes) -> None:
    clip(source / "b.mp4").with_suffix(".txt").write_bytes(blank)
    with pytest.raises(MissingObjectError, match=r"clip b\.mp4 has no caption: .*/b\.txt is empty"):
        trimmed(source, "Fail")
    assert not (source.parent / "cache").exists()
    skipped = trimmed(source, "Skip")
    why = "EmptyCaption: b.txt has no words, and missingCaption is Skip"
    assert skipped.details == {"skipped": [{"clip": "b.mp4", "message": why}]}
    assert skipped.result.items_total == 1
    assert trimmed(source, "Empty").result.items_done == 2


def test_names_that_are_no_utf8_go_all_the_way(source: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(source) + b"/stra\xdfe"))
    clip(folder / os.fsdecode(b"caf\xe9.MP4"), "a café")
    done = trimmed(source, "Fail")
    assert (done.result.items_total, done.result.items_done) == (2, 2)
    again = trimmed(source, "Fail")
    assert again.result.cache_hit
    assert again.result.cache_key == done.result.cache_key


def test_linked_folders_are_followed(source: Path) -> None:
    clip(source.parent / "originals" / "set" / "b.m4v", "another rabbit")
    (source / "more").symlink_to("../originals")
    (source / "more" / "set" / "back").symlink_to(source)
    assert trimmed(source, "Fail").result.items_done == 2
