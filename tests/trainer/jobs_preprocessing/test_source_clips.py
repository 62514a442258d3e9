"""A folder is listed in a fixed order, with names that are safe and never meet."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_api.runfile import Locations
from mochi_api.spec import S3Spec
from mochi_trainer.jobs.source_clips import clip_names, results_below, source_clips
from mochi_trainer.storage import ObjectInfo, open_store


def _objects(*keys: str) -> list[ObjectInfo]:
    return [ObjectInfo(key, 1, "etag") for key in keys]


def test_clips_of_any_case_and_depth_are_found_with_their_captions() -> None:
    found = source_clips(_objects("b.MOV", "a.Mp4", "a.txt", "sub/c.mp4", "sub/c.TXT", "readme.md", "b.json"))
    assert [(clip.name, clip.source.key, clip.caption and clip.caption.key) for clip in found] == [
        ("a", "a.Mp4", "a.txt"),
        ("b", "b.MOV", None),
        ("sub_c", "sub/c.mp4", "sub/c.TXT"),
    ]
    assert found[1].caption_key == "b.txt"


def test_hidden_files_are_not_clips() -> None:
    assert source_clips(_objects("._a.mp4", ".hidden.mp4", "sub/._b.mov")) == []


def test_other_containers_are_listed_with_the_command_that_converts_them() -> None:
    (clip,) = source_clips(_objects("my clip.webm"))
    assert clip.problem.startswith(".webm files are not read, only MP4 and MOV; convert it: ffmpeg -i")


def test_the_first_clips_are_those_of_the_smallest_names() -> None:
    assert [clip.source.key for clip in source_clips(_objects("c.mp4", "a.mp4", "b.mp4"), most=2)] == [
        "a.mp4",
        "b.mp4",
    ]


def test_names_that_would_meet_get_a_piece_of_their_hash() -> None:
    names = clip_names(["a.mp4", "a.mov", "A.mp4", "sub/a.mp4", "sub__a.mp4", "_empty.mp4", "日本.mp4"])
    assert len({name.lower() for name in names}) == 7
    assert names[5] == "empty"
    assert names[6] == "clip"
    assert all(re.fullmatch(r"a-[0-9a-f]{8}", name.lower()) for name in names[:3])


@given(st.lists(st.text(min_size=1, max_size=200), unique=True, max_size=20))
def test_names_are_safe_and_unique_for_any_keys(stems: list[str]) -> None:
    names = clip_names([f"{stem}.mp4" for stem in stems])
    assert len({name.lower() for name in names}) == len(stems)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and len(name) < 100 for name in names)


@pytest.mark.parametrize(
    ("dataset", "output", "below"),
    [
        ("s3://demo/clips/", "s3://demo/clips/out", ["out/cache/", "out/runs/"]),
        ("s3://demo", "s3://demo/out", ["out/cache/", "out/runs/"]),
        ("s3://demo/clips", "s3://demo/clips", ["cache/", "runs/"]),
        ("s3://demo/clips", "s3://demo/clips-out", []),
        ("s3://demo/out/clips", "s3://demo/out", []),
        ("s3://other/clips", "s3://demo/clips/out", []),
        ("file:///data", "file:///data/out", ["out/cache/", "out/runs/"]),
        ("file:///data/clips", "file:///data", []),
    ],
)
def test_results_are_looked_for_just_where_they_lie_below_the_dataset(
    dataset: str, output: str, below: list[str]
) -> None:
    locations = Locations(dataset=dataset, cache=f"{output}/cache", run=f"{output}/runs/uid")
    assert results_below(open_store(dataset, S3Spec()), locations, S3Spec()) == below


def test_a_folder_of_a_run_given_by_hand_is_left_out_alone() -> None:
    locations = Locations(dataset="file:///data", cache="file:///cache", run="file:///data/my-run")
    assert results_below(open_store("file:///data", S3Spec()), locations, S3Spec()) == ["my-run/"]
