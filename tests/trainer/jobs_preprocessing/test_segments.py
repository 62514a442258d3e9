"""Several segments of a clip: which frames they hold, what they are called, and what every later stage makes of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.spec import PreprocessingSpec, S3Spec
from mochi_trainer.data import Dataset
from mochi_trainer.errors import DatasetRejectedError
from mochi_trainer.footage.segments import MARGIN
from mochi_trainer.jobs import cache, captions, trim, videos
from mochi_trainer.jobs.cutting import _parameters
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.source_clips import clip_names
from mochi_trainer.report.clips import gather_clips
from mochi_trainer.report.record import read_records, write_record
from mochi_trainer.storage import Manifest, open_store, read_manifest
from mochi_trainer.video import Cut, encode_mp4, read_clip, read_frames
from tests.trainer.footage.material import BIKES_CUTS
from tests.trainer.footage.test_passes import numbered, numbers
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.report.realistic import record
from tests.trainer.video.clips import real_clip

SIZE = {"width": 64, "height": 32, "fps": 25}
EVEN = {**SIZE, "segments": {"select": "Even"}}
CUTS = {**SIZE, "segments": {"select": "Cuts", "maxPerClip": 64}}


def source(root: Path, *names: str) -> Path:
    """Captions for clips that are there or will be."""
    folder = root / "source"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).with_suffix(".txt").write_text(f"caption of {name}")
    return folder


def manifest_of(root: Path, finished: Finished) -> Manifest:
    assert finished.result is not None
    return read_manifest(open_store(f"file://{root}/cache", S3Spec()), f"trim/{finished.result.cache_key}")


def pictures(root: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    names = [clip["name"] for clip in manifest.details["clips"]]
    return {name: read_frames(root / "cache" / manifest.key(f"{name}.mov")) for name in names}


def contents(manifest: Manifest) -> tuple[dict[str, str], Mapping[str, Any]]:
    return {name: entry.sha256 for name, entry in manifest.entries.items()}, manifest.details


@pytest.mark.parametrize(
    ("most", "start", "firsts"),
    [(1, "0", [56]), (2, "0", [26, 86]), (4, "0", [11, 41, 71, 101]), (3, "2", [58, 81, 104]), (64, "4", [101, 111])],
)  # fmt: skip
def test_even_segments_hold_these_frames(tmp_path: Path, most: int, start: str, firsts: list[int]) -> None:
    numbered(source(tmp_path, "a.mp4") / "a.mp4", 120)
    settings = {**SIZE, "startSeconds": start, "segments": {"select": "Even", "maxPerClip": most}}
    done = trim.execute(run_file(tmp_path, **settings))
    manifest = manifest_of(tmp_path, done)
    assert [numbers(frames) for frames in pictures(tmp_path, manifest).values()] == [
        list(range(first, first + 7)) for first in firsts
    ]
    lines = manifest.details["clips"]
    assert [line["name"] for line in lines] == [f"a__{k:02d}" for k in range(len(firsts))]
    assert [line["segment"] for line in lines] == list(range(len(firsts)))
    assert [line["start"] for line in lines] == pytest.approx([first / 25 for first in firsts])
    assert {(line["source"], line["caption"]) for line in lines} == {("a.mp4", "caption of a.mp4")}
    assert (done.result.items_total, done.result.items_done) == (1, 1)
    assert done.message.startswith(f"made 1 of 1 clips, {len(firsts)} segments")


def test_a_segment_is_what_a_run_that_begins_there_keeps(tmp_path: Path) -> None:
    """Of a real clip at another rate, far enough inside that keyframes are looked for."""
    shutil.copyfile(real_clip("bikes.mp4"), source(tmp_path, "b.mp4") / "b.mp4")
    settings = {"width": 48, "height": 32, "fps": 30, "segments": {"select": "Even", "maxPerClip": 3}}
    manifest = manifest_of(tmp_path, trim.execute(run_file(tmp_path, **settings)))
    whole = read_clip(
        tmp_path / "source" / "b.mp4", Cut(frames=300, least=300, fps=30, width=48, height=32)
    ).frames
    for line, frames in zip(manifest.details["clips"], pictures(tmp_path, manifest).values(), strict=True):
        first = round(line["start"] * 30)
        assert (frames == whole[first : first + 7]).all()
    assert manifest.details["clips"][2]["start"] > 5


def test_segments_inside_shots_never_cross_a_cut_that_people_made(tmp_path: Path) -> None:
    shutil.copyfile(real_clip("bikes.mp4"), source(tmp_path, "b.mp4") / "b.mp4")
    done = trim.execute(run_file(tmp_path, frames=13, **CUTS))
    lines = manifest_of(tmp_path, done).details["clips"]
    shots = [0.0, *(at / 25 for at in BIKES_CUTS), 10.0]
    owners = []
    for line in lines:
        begin, end = line["start"], line["start"] + 13 / 25
        (shot,) = [k for k in range(6) if shots[k] <= begin < shots[k + 1]]
        owners.append(shot)
        assert begin >= shots[shot] + (MARGIN if shot else 0) - 1e-6
        assert end <= shots[shot + 1] - (MARGIN if shot < 5 else 0) + 1e-6
    assert set(owners) == {0, 1, 2, 3, 4}, "the last shot has 8 frames"
    assert len(lines) > 6


def test_a_clip_without_a_shot_of_that_length_is_one_failure(tmp_path: Path) -> None:
    folder = source(tmp_path, "b.mp4", "long.mp4")
    shutil.copyfile(real_clip("bikes.mp4"), folder / "b.mp4")
    shutil.copyfile(real_clip("bigbuckbunny.mp4"), folder / "long.mp4")
    done = trim.execute(run_file(tmp_path, frames=85, maxFailedItemsPercent=50, **CUTS))
    ((clip, reason, message),) = [(item.clip, item.reason, item.message) for item in done.failures]
    assert (clip, reason) == ("b.mp4", "TooShort")
    assert message == (
        "85 frames at 25 fps take 3.40 s, none of its 6 shots has so many: the longest has 55 (2.20 s), "
        "changes of shot left out"
    )
    assert (done.result.items_total, done.result.items_done, done.result.items_failed) == (2, 1, 1)


@pytest.mark.parametrize("select", ["Even", "Cuts"])
def test_a_clip_that_is_too_short_is_one_failure_as_ever(tmp_path: Path, select: str) -> None:
    numbered(source(tmp_path, "a.mp4") / "a.mp4", 5)
    seen = []
    for kind in ("First", select):
        with pytest.raises(DatasetRejectedError) as caught:
            trim.execute(run_file(tmp_path, **SIZE, segments={"select": kind}))
        seen.append([(item.clip, item.reason, item.message) for item in caught.value.failures])
    assert (
        seen[0]
        == seen[1]
        == [("a.mp4", "TooShort", "7 frames at 25 fps take 0.28 s, the clip has 5 (0.20 s)")]
    )


def test_tolerance_counts_clips_of_the_dataset(tmp_path: Path) -> None:
    """Four segments and one broken file: half of the clips have failed, not a fifth."""
    folder = source(tmp_path, "a.mp4", "b.mp4")
    numbered(folder / "a.mp4", 120)
    (folder / "b.mp4").write_bytes(b"no clip")
    with pytest.raises(DatasetRejectedError, match="1 of 2 clips cannot be used, more than"):
        trim.execute(run_file(tmp_path, maxFailedItemsPercent=49, **EVEN))
    assert trim.execute(run_file(tmp_path, maxFailedItemsPercent=50, **EVEN)).result.items_done == 1


def test_damage_behind_the_first_segment_is_the_clips(tmp_path: Path) -> None:
    folder = source(tmp_path, "a.mp4", "b.mp4")
    numbered(folder / "a.mp4", 120)
    data = bytearray(real_clip("bikes.mp4").read_bytes())
    start = data.index(b"mdat") + len(data) // 2
    data[start : start + 20_000] = bytes(20_000)
    (folder / "b.mp4").write_bytes(data)
    assert trim.execute(run_file(tmp_path, **SIZE)).result.items_failed == 0
    done = trim.execute(run_file(tmp_path, maxFailedItemsPercent=50, **CUTS))
    assert [(item.clip, item.reason) for item in done.failures] == [("b.mp4", "Corrupt")]


@pytest.mark.parametrize("given", [None, {}, {"select": "First"}, {"select": "First", "maxPerClip": 1}])
def test_one_segment_is_cut_as_before_there_were_several(given: dict[str, Any] | None) -> None:
    spec = PreprocessingSpec.model_validate({"frames": 7, **({} if given is None else {"segments": given})})
    assert _parameters(spec) == {
        "kept": 7, "exact": True, "size": [848, 480], "fps": 30, "start": 0.0, "crop": [0.5, 0.5],
    }  # fmt: skip


def test_no_segment_has_the_name_of_another_clip(tmp_path: Path) -> None:
    """A clip may be called as the segment of another would be."""
    folder = source(tmp_path, "a.mp4", "a__00.mp4", "a_00.mp4", "a-00.mp4")
    for number, name in enumerate(("a.mp4", "a__00.mp4", "a_00.mp4", "a-00.mp4")):
        numbered(folder / name, 60 + number)
    lines = manifest_of(tmp_path, trim.execute(run_file(tmp_path, **EVEN))).details["clips"]
    assert len({line["name"].lower() for line in lines}) == len(lines) == 16
    names = clip_names(["a/x.mp4", "a_x.mp4"])
    taken = clip_names(["a/x.mp4", "a_x.mp4", f"{names[0]}.mp4"])
    assert len(set(taken)) == 3, "a clip called like the name with a hash that another would get"
    assert all("__" not in name for name in (*names, *taken))


def test_one_clip_more_costs_one_clip_and_making_them_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = source(tmp_path, "a.mp4", "b.mp4")
    numbered(folder / "a.mp4", 100)
    first = manifest_of(tmp_path, trim.execute(run_file(tmp_path, **EVEN)))
    shutil.copyfile(real_clip("bikes.mp4"), folder / "b.mp4")
    done = trim.execute(run_file(tmp_path, **EVEN))
    assert done.message == "made 2 of 2 clips, 1 of them from the cache, 8 segments"
    both = manifest_of(tmp_path, done)
    assert contents(first)[0].items() <= contents(both)[0].items()
    again = trim.execute(run_file(tmp_path, uid="0-2", cachePolicy="Refresh", **EVEN))
    assert contents(manifest_of(tmp_path, again)) == contents(both)


def test_all_stages_take_segments_for_clips_and_one_that_was_altered_is_cut_again(tmp_path: Path) -> None:
    folder = source(tmp_path, "a.mp4", "b.mp4")
    numbered(folder / "a.mp4", 100)
    shutil.copyfile(real_clip("bikes.mp4"), folder / "b.mp4")
    settings = {**EVEN, "segments": {"select": "Even", "maxPerClip": 2}, "videos": {"reconstructEvery": 3}}
    done = trim.execute(run_file(tmp_path, **settings))
    manifest = manifest_of(tmp_path, done)
    keys = {"trim": done.result.cache_key}
    texts = captions.execute(run_file(tmp_path, stage="captions", keys=keys, **settings))
    assert texts.result.items_done == 4
    copy = tmp_path / "cache" / manifest.key("b__01.mov")
    good = copy.read_bytes()
    copy.write_bytes(bytes(len(good)))
    made = videos.execute(run_file(tmp_path, stage="videos", keys=keys, **settings))
    assert made.message.startswith("made latents of 4 clips")
    assert copy.read_bytes() == good
    assert [line["source"] for line in made.details["reconstructions"]] == ["a.mp4#00", "b.mp4#01"]
    keys |= {"captions": texts.result.cache_key, "videos": made.result.cache_key}
    with Dataset.open(run_file(tmp_path, stage="train", keys=keys, **settings)) as dataset:
        assert dataset.clips == ("a__00", "a__01", "b__00", "b__01")
        assert dataset.captions == ("caption of a.mp4",) * 2 + ("caption of b.mp4",) * 2

    store = open_store(f"file://{tmp_path}/runs/0-1", S3Spec())
    for stage, finished in (("trim", done), ("captions", texts), ("videos", made)):
        outcome = Outcome(reason=Reason.COMPLETED, stage_result=finished.result)
        write_record(
            store, record(stage, outcome, failures=finished.failures, details=dict(finished.details))
        )
    rows = gather_clips(open_store(f"file://{tmp_path}/cache", S3Spec()), read_records(store))
    assert [(row.label, row.source, row.start, row.picture is not None) for row in rows] == [
        (f"{line['source']}#{line['segment']:02d}", line["source"], line["start"], True)
        for line in manifest.details["clips"]
    ]
    assert all(row.tokens is not None for row in rows)
    table = cache.look(
        cache.Request(address=f"file://{tmp_path}", young_days=0, remove=True),
        S3Spec(),
        now=lambda: time.time() + 9,
    )
    assert "removed" in table or "unused" in table
    again = videos.execute(run_file(tmp_path, stage="videos", keys=keys, **settings))
    assert again.result.cache_hit


def test_segments_that_are_alike_are_told_and_others_are_not(tmp_path: Path) -> None:
    folder = source(tmp_path, "a.mp4", "still.mp4")
    shutil.copyfile(real_clip("bikes.mp4"), folder / "a.mp4")
    frame = read_clip(folder / "a.mp4", Cut(frames=1, least=1, fps=25, width=64, height=32)).frames
    encode_mp4(np.repeat(frame, 60, 0), folder / "still.mp4", fps=25)
    done = trim.execute(run_file(tmp_path, **{**SIZE, "segments": {"select": "Even", "maxPerClip": 3}}))
    found = {
        f"{line['source']}#{line['segment']:02d}": line["warnings"].get("NearDuplicate")
        for line in manifest_of(tmp_path, done).details["clips"]
    }
    assert found == {
        "a.mp4#00": None,
        "a.mp4#01": None,
        "a.mp4#02": None,
        "still.mp4#00": None,
        "still.mp4#01": "shows nearly the same as still.mp4#00",
        "still.mp4#02": "shows nearly the same as still.mp4#00",
    }
    assert done.message.endswith(
        "; near-duplicates: 2, such as still.mp4#01, which shows nearly the same as still.mp4#00"
    )
