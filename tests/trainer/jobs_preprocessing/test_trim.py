"""The stage trim on real clips: what it makes, reuses, counts and refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import DatasetRejectedError, MissingObjectError
from mochi_trainer.jobs import trim
from mochi_trainer.jobs.cutting import local_name
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.storage import Manifest, open_store, read_manifest
from mochi_trainer.video import Cut, read_clip, read_frames
from tests.trainer.preprocessing_runs import run_file, write_source
from tests.trainer.video.clips import real_clip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_source(tmp_path / "source")
    return tmp_path


def _manifest(root: Path, finished: Finished) -> Manifest:
    return read_manifest(open_store(f"file://{root}/cache", S3Spec()), f"trim/{finished.result.cache_key}")


def test_clips_are_cut_scaled_and_stored_with_their_captions(root: Path) -> None:
    done = trim.execute(run_file(root))
    assert (done.result.items_total, done.result.items_done, done.result.items_failed) == (2, 2, 0)
    assert not done.result.cache_hit
    manifest = _manifest(root, done)
    assert sorted(manifest.entries) == [f"{n}.{e}" for n in ("bunny", "carphone") for e in ("jpg", "mov")]
    assert read_frames(root / "cache" / manifest.key("bunny.mov")).shape == (7, 32, 48, 3)
    assert manifest.details["clips"][0] == {
        "name": "bunny", "source": "bunny.mp4", "frames": 7, "width": 48, "height": 32,
        "caption": "the clip bunny.mp4", "enlargement": 0.044, "warnings": {}, "start": 0.0, "segment": None, "repeats": [],
    }  # fmt: skip


def test_a_second_run_reuses_it_and_says_so(root: Path) -> None:
    first = trim.execute(run_file(root))
    clip = root / "cache" / _manifest(root, first).key("bunny.mov")
    stamp = clip.stat().st_mtime_ns
    second = trim.execute(run_file(root))
    assert second.result.cache_hit
    assert second.message == "reused 2 of 2 clips"
    assert second.result.cache_key == first.result.cache_key
    assert clip.stat().st_mtime_ns == stamp
    assert not trim.execute(run_file(root, uid="0-2", cachePolicy="Refresh")).result.cache_hit


def test_refresh_keeps_what_an_attempt_of_the_same_run_has_made(root: Path) -> None:
    """A pod that was lost in the middle of it does not begin at the first clip."""
    trim.execute(run_file(root))
    run = run_file(root, uid="0-2", cachePolicy="Refresh")
    assert trim.execute(run).message == "made 2 of 2 clips"
    assert trim.execute(run).message == "reused 2 of 2 clips"


def test_trimming_again_gives_the_same_bytes(root: Path) -> None:
    first = _manifest(root, trim.execute(run_file(root)))
    again = _manifest(root, trim.execute(run_file(root, uid="0-2", cachePolicy="Refresh")))
    assert {name: entry.sha256 for name, entry in again.entries.items()} == {
        name: entry.sha256 for name, entry in first.entries.items()
    }


def test_another_caption_cuts_no_clip_again(root: Path) -> None:
    first = _manifest(root, trim.execute(run_file(root)))
    (root / "source" / "bunny.txt").write_text("another caption")
    done = trim.execute(run_file(root))
    edited = _manifest(root, done)
    assert done.message == "reused 2 of 2 clips"
    assert edited.entries == first.entries
    assert edited.details["clips"][0]["caption"] == "another caption"


def test_one_more_clip_costs_one_clip(root: Path) -> None:
    trim.execute(run_file(root))
    shutil.copyfile(real_clip("carphone_pristine.mp4"), root / "source" / "more.mp4")
    (root / "source" / "more.txt").write_text("one more")
    done = trim.execute(run_file(root))
    assert done.message == (
        "made 3 of 3 clips, 2 of them from the cache; near-duplicates: 1, such as more.mp4, "
        "which shows nearly the same as carphone.MOV"
    )


def test_an_altered_clip_is_noticed_and_made_again(root: Path) -> None:
    first = _manifest(root, trim.execute(run_file(root)))
    clip = root / "cache" / first.key("bunny.mov")
    good = clip.read_bytes()
    clip.write_bytes(bytes(len(good)))
    assert trim.execute(run_file(root)).message == "made 2 of 2 clips, 1 of them from the cache"
    assert clip.read_bytes() == good


def test_a_clip_that_cannot_be_used_is_not_tried_again(root: Path) -> None:
    (root / "source" / "broken.mp4").write_bytes(b"not a video at all")
    (root / "source" / "broken.txt").write_text("broken")
    trim.execute(run_file(root, maxFailedItemsPercent=34))
    (root / "source" / "bunny.txt").write_text("another caption, so that the list is another")
    again = trim.execute(run_file(root, maxFailedItemsPercent=34))
    assert again.message == "reused 2 of 3 clips"
    assert [(item.clip, item.reason) for item in again.failures] == [("broken.mp4", "Corrupt")]


def test_an_incomplete_output_is_made_again(root: Path) -> None:
    first = trim.execute(run_file(root))
    (root / "cache" / _manifest(root, first).key("bunny.mov")).unlink()
    assert not trim.execute(run_file(root)).result.cache_hit


def test_the_key_follows_clips_captions_and_parameters_but_not_tolerance(root: Path) -> None:
    key = trim.execute(run_file(root)).result.cache_key
    assert trim.execute(run_file(root, maxFailedItemsPercent=0)).result.cache_key == key
    assert trim.execute(run_file(root, height=48)).result.cache_key != key
    (root / "source" / "bunny.txt").write_text("another caption")
    assert trim.execute(run_file(root)).result.cache_key != key


def test_a_missing_caption_fails_with_the_path_that_was_expected(root: Path) -> None:
    (root / "source" / "bunny.txt").unlink()
    with pytest.raises(
        MissingObjectError, match=r"clip bunny\.mp4 has no caption: file://.*/source/bunny\.txt does not"
    ):
        trim.execute(run_file(root))


def test_a_missing_caption_may_be_empty_or_leave_the_clip_out(root: Path) -> None:
    (root / "source" / "bunny.txt").write_text("")
    empty = trim.execute(run_file(root, missingCaption="Empty"))
    assert [clip["caption"] for clip in _manifest(root, empty).details["clips"]] == [
        "",
        "the clip carphone.MOV",
    ]
    skip = trim.execute(run_file(root, missingCaption="Skip"))
    why = "EmptyCaption: bunny.txt has no words, and missingCaption is Skip"
    assert skip.details == {"skipped": [{"clip": "bunny.mp4", "message": why}]}
    assert skip.message == "reused 1 of 1 clips, 1 without caption left out"


def test_a_bad_clip_is_counted_and_the_others_go_on(root: Path) -> None:
    (root / "source" / "broken.mp4").write_bytes(b"not a video at all")
    (root / "source" / "broken.txt").write_text("broken")
    done = trim.execute(run_file(root, maxFailedItemsPercent=34))
    assert (done.result.items_total, done.result.items_done) == (3, 2)
    assert [(item.clip, item.message.split(":")[0]) for item in done.failures] == [
        ("broken.mp4", "cannot be read as MP4 or MOV")
    ]


def test_too_many_bad_clips_end_the_stage_with_all_of_them(root: Path) -> None:
    (root / "source" / "broken.mp4").write_bytes(b"")
    (root / "source" / "broken.txt").write_text("broken")
    with pytest.raises(DatasetRejectedError) as caught:
        trim.execute(run_file(root, maxFailedItemsPercent=33))
    assert str(caught.value) == (
        "1 of 3 clips cannot be used, more than maxFailedItemsPercent = 33 allows: "
        "broken.mp4: the file is empty (0 bytes)"
    )
    assert [item.clip for item in caught.value.failures] == ["broken.mp4"]
    assert caught.value.total == 3


def test_no_clip_at_all_is_refused_with_the_address(root: Path) -> None:
    with pytest.raises(DatasetRejectedError, match=r"no MP4 or MOV file below file://.*/nothing"):
        trim.execute(run_file(root, source=f"file://{root}/nothing"))


def test_only_failures_are_refused_whatever_is_tolerated(root: Path) -> None:
    for name in ("bunny.mp4", "carphone.MOV"):
        (root / "source" / name).write_bytes(b"")
    with pytest.raises(DatasetRejectedError, match="2 of 2 clips cannot be used: bunny"):
        trim.execute(run_file(root, maxFailedItemsPercent=100))


def test_of_clips_that_claim_one_caption_the_first_is_used(root: Path) -> None:
    shutil.copyfile(real_clip("carphone_pristine.mp4"), root / "source" / "bunny.mov")
    done = trim.execute(run_file(root, maxFailedItemsPercent=50))
    assert [clip["source"] for clip in _manifest(root, done).details["clips"]] == [
        "bunny.mov",
        "carphone.MOV",
    ]
    assert [(item.clip, item.reason) for item in done.failures] == [("bunny.mp4", "DuplicateName")]


def test_a_longer_duration_serves_runs_of_different_length(root: Path) -> None:
    short = trim.execute(run_file(root, durationSeconds="0.5"))
    longer = trim.execute(run_file(root, durationSeconds="0.5", frames=13))
    assert longer.result.cache_hit
    assert longer.result.cache_key == short.result.cache_key
    assert [clip["frames"] for clip in _manifest(root, short).details["clips"]] == [15, 15]


def test_start_and_crop_choose_the_part_that_is_kept(root: Path) -> None:
    """Pictures of real clips: what begins later is what comes later, and what is cut left is what is left."""

    def pictures(**settings: object) -> np.ndarray:
        manifest = _manifest(root, trim.execute(run_file(root, **settings)))
        return read_frames(root / "cache" / manifest.key("bunny.mov"))

    whole = pictures(durationSeconds="0.5")
    assert (pictures(startSeconds="0.2333") == whole[7:14]).all()
    seen = []
    for crop in (0.0, 0.5, 1.0):
        cut = Cut(frames=7, least=7, fps=30, width=32, height=32, crop_x=crop)
        seen.append(pictures(cropX=str(crop), width=32, height=32))
        assert (seen[-1] == read_clip(root / "source" / "bunny.mp4", cut).frames).all()
    assert (pictures(width=32, height=32) == seen[1]).all()
    assert (seen[0] != seen[1]).any()
    assert (seen[1] != seen[2]).any()


def test_bad_captions_are_failures_of_their_clip(root: Path) -> None:
    (root / "source" / "bunny.txt").write_bytes(b"caf\xe9")
    done = trim.execute(run_file(root, maxFailedItemsPercent=50))
    assert [item.message for item in done.failures] == [
        "the caption bunny.txt is not UTF-8 (byte 3) but probably Latin-1, in which it reads 'café': save it as UTF-8"
    ]


def test_clips_that_are_too_short_need_fewer_frames_and_no_tolerance(root: Path) -> None:
    with pytest.raises(DatasetRejectedError) as caught:
        trim.execute(run_file(root, frames=163, fps=1))
    assert caught.value.action == (
        "use longer clips or fewer preprocessing.frames, or a shorter size in preprocessing.buckets; apply again under a new name"
    )


def test_tolerance_is_advised_only_where_clips_are_left_and_with_the_least_that_helps(root: Path) -> None:
    (root / "source" / "broken.mp4").write_bytes(b"")
    (root / "source" / "broken.txt").write_text("broken")
    with pytest.raises(DatasetRejectedError) as caught:
        trim.execute(run_file(root, maxFailedItemsPercent=33))
    assert caught.value.action == (
        "upload the clip again from its source, or leave it out, "
        "or raise preprocessing.maxFailedItemsPercent to at least 34; apply again under a new name"
    )
    assert trim.execute(run_file(root, maxFailedItemsPercent=34)).result.items_done == 2


def test_it_works_on_s3(root: Path, s3_server) -> None:
    base = f"s3://data/{uuid4().hex}"
    store = open_store(f"{base}/source", s3_server.spec)
    for path in (root / "source").iterdir():
        store.put(path, f"sub folder/{path.name}")
    run = run_file(base, s3=s3_server.spec)
    assert trim.execute(run).result.items_done == 2
    again = trim.execute(run)
    assert again.result.cache_hit
    wrong = run_file(base, s3=s3_server.spec, source="s3://no-such-bucket/clips/")
    with pytest.raises(MissingObjectError, match="bucket no-such-bucket"):
        trim.execute(wrong)


@pytest.mark.parametrize("name", ["trimmed.mov", "source.mp4", "a\nb$(id).MOV", f"{'q' * 251}.mp4", "-o.m4v"])
def test_clips_of_any_name_are_cut(root: Path, name: str) -> None:
    """A clip lies under its own name while it is read, and what is cut of it beside that."""
    shutil.copyfile(real_clip("carphone_pristine.mp4"), root / "source" / name)
    done = trim.execute(run_file(root, missingCaption="Empty"))
    assert (done.result.items_total, done.result.items_failed) == (3, 0)


def test_a_bad_clip_comes_with_a_command_for_it_and_not_for_a_copy_of_it(root: Path) -> None:
    (root / "source" / "my film.mp4").write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    (root / "source" / "my film.txt").write_text("a film")
    done = trim.execute(run_file(root, maxFailedItemsPercent=50))
    (failure,) = done.failures
    assert 'ffmpeg -i "my film.mp4" ' in failure.message
    assert failure.message.endswith('"my film.new.mp4" && mv "my film.new.mp4" "my film.mp4"')


@pytest.mark.parametrize("key", ["q" * 400 + ".mp4", "b/" + "é" * 126 + ".MOV", "a\0b.m4v"])
def test_a_name_that_no_file_can_have_is_left_to_the_store(key: str, tmp_path: Path) -> None:
    (tmp_path / local_name(key)).write_bytes(b"x")
    assert local_name(key) == f"clip{Path(key).suffix.lower()}"
