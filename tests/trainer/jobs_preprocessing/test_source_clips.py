"""A folder is listed in a fixed order, with names that are safe and never meet."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_api import layout
from mochi_api.clips import ClipReason
from mochi_api.outcomes import Item
from mochi_api.runfile import Locations
from mochi_api.spec import BucketSpec, PreprocessingSpec, S3Spec
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.left_out import CACHE, HIDDEN, SYSTEM, LeftOut, why_no_clip
from mochi_trainer.jobs.source_captions import captioned
from mochi_trainer.jobs.source_clips import (
    clip_names,
    dataset_objects,
    no_clips,
    results_below,
    source_clips,
)
from mochi_trainer.storage import ObjectInfo, open_store
from mochi_trainer.storage.local import LocalStore
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.training_runs import run_file
from tests.trainer.work import lines

RECONSTRUCTION = "a reconstruction by Mochi's own fine-tuner"
PREVIEW = "a preview by musubi-tuner"
RESULT = "a result of a run"
UID = "0e9b1c4a-77d5-4a0e-9f2c-3d1f5e6a7b8c"
NFC, NFD = "caf\u00e9", "cafe\u0301"


def _objects(*keys: str) -> list[ObjectInfo]:
    return [ObjectInfo(key, 1, "etag") for key in keys]


def test_clips_of_any_case_and_depth_are_found_with_their_captions() -> None:
    found = source_clips(
        _objects(
            "b.MOV", "a.Mp4", "a.txt", "d.M4V", "sub/c.mp4", "sub/c.TXT", "readme.md", "b.json", "txt", ".txt"
        )
    )
    assert [(clip.name, clip.source.key, clip.caption and clip.caption.key) for clip in found] == [
        ("a", "a.Mp4", "a.txt"),
        ("b", "b.MOV", None),
        ("d", "d.M4V", None),
        ("sub_c", "sub/c.mp4", "sub/c.TXT"),
    ]
    assert found[1].caption_key == "b.txt"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("._a.mp4", HIDDEN),
        ("sub/._b.mov", HIDDEN),
        (".ipynb_checkpoints/a-checkpoint.mp4", HIDDEN),
        ("sub/.Trash-1000/files/a.mp4", HIDDEN),
        (".cache/a.mp4", HIDDEN),
        ("__MACOSX/clips/a.mp4", SYSTEM),
        ("@eaDir/a.mp4/SYNOVIDEO.mp4", SYSTEM),
        ("#recycle/a.mp4", SYSTEM),
        ("$RECYCLE.BIN/S-1-5/a.mp4", SYSTEM),
        ("System Volume Information/a.mp4", SYSTEM),
        ("lost+found/#12.mp4", SYSTEM),
        ("_latent_cache/a.mp4", CACHE),
        ("sub/vae_cache/a.mp4", CACHE),
        ("cached_latents/a.mp4", CACHE),
        (layout.join(layout.run_root("out", UID), "samples/sample-00.mp4"), RESULT),
        (layout.join(layout.run_root("", UID), "deep/a.mp4"), RESULT),
        (layout.join(layout.cache_entry(layout.cache_root("x/y", ""), "trim", "0f" * 16), "a.mp4"), RESULT),
        (layout.join(layout.units(layout.cache_root("out", ""), "trim", "f"), "k.mp4"), RESULT),
        ("a.recon.mp4", RECONSTRUCTION),
        ("a.mp4.recon.mp4", RECONSTRUCTION),
        ("cache/a_00000-045_0848x0480_hv.mp4", PREVIEW),
    ],
)
def test_what_is_none_of_the_users_is_no_clip(key: str, what: str) -> None:
    assert why_no_clip(key) == what
    assert source_clips(_objects(key, f"{key[:-4]}.txt")) == []


@pytest.mark.parametrize(
    "key",
    [
        "cache/a.mp4",
        "reconstruction.mp4",
        "recon.mp4",
        "../a.mp4",
        "a/./b.mp4",
        "my_cache.mp4",
        "$a/b.mp4",
        "a.mp4/b.mp4",
    ],
)
def test_what_only_looks_so_is_a_clip(key: str) -> None:
    assert [clip.source.key for clip in source_clips(_objects(key))] == [key]


def test_what_mochis_fine_tuner_leaves_beside_a_clip_is_no_clip() -> None:
    """Reported of folders that were prepared with genmoai/mochi (M1)."""
    keys = [
        "a.mp4",
        "a.txt",
        "a.recon.mp4",
        "a.latent.pt",
        "a.embed.pt",
        "b.npz",
        "a_0848x0480_hv.safetensors",
    ]
    assert [clip.source.key for clip in source_clips(_objects(*keys))] == ["a.mp4"]


def test_another_container_beside_its_conversion_is_left_out_and_counted() -> None:
    left_out = LeftOut()
    found = source_clips(_objects("a.webm", "a.mp4", "a.txt", "b.webm"), left_out=left_out)
    assert [(clip.source.key, bool(clip.problem)) for clip in found] == [("a.mp4", False), ("b.webm", True)]
    assert left_out.words() == "1 beside the same clip as MP4 or MOV (such as a.webm)"


def test_the_end_of_a_stage_tells_what_was_left_out() -> None:
    finished = Finished(result=None, message="made 1 of 1 clips", details={"skipped": []})
    left_out = LeftOut()
    assert left_out.told_by(finished) is finished
    for key in ("a.recon.mp4", "b.recon.mp4"):
        left_out.add(RECONSTRUCTION, key)
    left_out.add(HIDDEN, ".a/" + "long" * 100 + ".mp4")
    told = left_out.told_by(finished)
    assert told.message.startswith(
        f"made 1 of 1 clips; 3 videos left out: 2 {RECONSTRUCTION} (such as a.recon.mp4), 1 hid"
    )
    assert len(told.message) < 300
    assert told.details == {"skipped": [], "leftOut": {RECONSTRUCTION: 2, HIDDEN: 1}}


def test_still_images_that_are_left_out_are_called_so() -> None:
    left_out = LeftOut()
    source_clips(_objects("a.mp4", "a.txt", "a.jpg", "a.png"), stills=True, left_out=left_out)
    told = left_out.told_by(Finished(result=None, message="made 1 of 1 clips"))
    assert told.message.startswith("made 1 of 1 clips; 2 still images left out: ")
    left_out.add(HIDDEN, ".b.mp4")
    assert left_out.counted() == "1 video and 2 still images"


@pytest.mark.parametrize(
    ("buckets", "there"),
    [
        ([], "1 video that does not count: 1 hidden (such as .a.mp4)"),
        (
            [{"frames": 1, "width": 48, "height": 32}],
            "1 video and 1 still image that do not count: 2 hidden",
        ),
    ],
    ids=["without stills", "with stills"],
)
def test_files_that_do_not_count_are_counted_where_their_kind_would(
    tmp_path: Path, buckets: list[dict], there: str
) -> None:
    (tmp_path / "clips").mkdir()
    for name in (".a.mp4", ".b.png", "c.md"):
        (tmp_path / "clips" / name).write_bytes(b"x")
    run = run_file(tmp_path)
    sized = run.preprocessing.model_copy(update={"buckets": [BucketSpec(**each) for each in buckets]})
    source, left_out = LocalStore(tmp_path / "clips"), LeftOut()
    objects = list(dataset_objects(source, run.model_copy(update={"preprocessing": sized}), left_out))
    error = str(no_clips(source, objects, left_out, stills=bool(buckets)))
    assert error.startswith(f"no MP4 or MOV file{' and no still image' if buckets else ''} below file://")
    assert there in error


def test_where_there_are_only_still_images_the_size_that_takes_them_is_named(tmp_path: Path) -> None:
    source = LocalStore(tmp_path)
    assert "for the 1 still image," in (no_clips(source, _objects("a.png")).action or "")
    action = no_clips(source, _objects("a.png", "b.webp", "c.txt")).action or ""
    assert "add a size of 1 frame to preprocessing.buckets for the 2 still images" in action
    assert "buckets" not in (no_clips(source, _objects("c.txt")).action or "")


@pytest.mark.parametrize("name", ["bus.mp4", "clips.zip"])
def test_a_file_in_place_of_the_folder_is_told(name: str, tmp_path: Path) -> None:
    error = no_clips(open_store(f"file://{tmp_path}/{name}", S3Spec()), [])
    assert str(error).endswith(
        f"nothing is there; {name} is the name of a file, and a dataset is the folder with the clips in it"
    )


class TestOneCaptionForTwo:
    def test_the_first_has_it_and_the_other_is_told_both_names(self) -> None:
        mov, mp4, other = source_clips(_objects("a.mp4", "a.mov", "a.txt", "b.mp4"))
        assert (mov.source.key, mov.problem, other.problem) == ("a.mov", "", "")
        assert mp4.reason == ClipReason.DUPLICATE_NAME
        assert mp4.problem == (
            "a.mov has the caption a.txt too, and only that clip is used; "
            "give this one, and a caption for it, another name"
        )

    def test_letters_large_and_small_are_two_names(self) -> None:
        upper, lower = source_clips(_objects("A.mp4", "a.mp4", "A.txt", "a.txt"))
        assert (upper.caption.key, lower.caption.key) == ("A.txt", "a.txt")
        assert upper.name.lower() != lower.name.lower()
        upper, lower = source_clips(_objects("A.mp4", "a.mp4", "a.txt"))
        assert (upper.caption, upper.problem, upper.misnamed_caption, lower.problem) == (None, "", "", "")

    def test_a_caption_in_other_letters_is_named(self) -> None:
        (clip,) = source_clips(_objects("Clip.MP4", "clip.txt"))
        assert (clip.caption, clip.misnamed_caption) == (None, "clip.txt")

    @pytest.mark.parametrize(
        ("names", "meant"),
        [
            (("a.caption",), "a.caption"),
            (("A.md",), "A.md"),
            (("captions/a.txt",), "captions/a.txt"),
            (("captions/a.txt", "old/a.txt"), ""),
            (("metadata.jsonl",), "metadata.jsonl"),
            (("captions.txt",), "captions.txt"),
            (("b.mp4", "b.txt"), ""),
            (("notes.pdf",), ""),
            (("sub/metadata.csv",), ""),
        ],
    )
    def test_a_caption_as_other_tools_keep_it_is_named(self, names: tuple[str, ...], meant: str) -> None:
        clip = next(clip for clip in source_clips(_objects("a.mp4", *names)) if clip.source.key == "a.mp4")
        assert (clip.caption, clip.misnamed_caption) == (None, meant)

    def test_captions_of_another_folder_stay_its_clips(self) -> None:
        first, second = source_clips(_objects("x/a.mp4", "y/a.mp4", "y/a.txt"))
        assert (first.caption, first.misnamed_caption) == (None, "")
        assert (second.caption.key, second.misnamed_caption) == ("y/a.txt", "")

    @pytest.mark.parametrize(("video", "caption"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
    def test_a_caption_in_the_other_normal_form_is_found(self, video: str, caption: str) -> None:
        (clip,) = source_clips(_objects(f"{video}.mp4", f"{caption}.txt"))
        assert clip.caption is not None
        assert clip.caption.key == f"{caption}.txt"

    def test_two_clips_that_look_alike_are_told_apart(self) -> None:
        found = source_clips(_objects(*(f"{name}{end}" for name in (NFC, NFD) for end in (".mp4", ".txt"))))
        assert [(clip.source.key[:-4], clip.problem) for clip in found] == [(NFD, ""), (NFC, "")]
        assert all(clip.caption and clip.caption.key[:-4] == clip.source.key[:-4] for clip in found)
        assert len({clip.name for clip in found}) == 2

    def test_of_two_that_look_alike_the_one_of_just_that_name_has_the_caption(self) -> None:
        decomposed, composed = source_clips(_objects(f"{NFC}.mp4", f"{NFD}.mp4", f"{NFC}.txt"))
        assert composed.problem == ""
        assert decomposed.reason == ClipReason.DUPLICATE_NAME
        assert f"{NFC}.mp4 has the caption {NFC}.txt too" in decomposed.problem

    def test_a_caption_written_twice_is_the_one_with_the_usual_suffix(self) -> None:
        (clip,) = source_clips(_objects("a.mp4", "a.TXT", "a.txt", "a.Txt"))
        assert clip.caption is not None
        assert clip.caption.key == "a.txt"


class TestKeysOfS3:
    def test_slashes_and_dots_are_part_of_a_key(self) -> None:
        keys = ["a//b.mp4", "a//b.txt", "a/b.mp4", "a/b.txt", "a/../b.mp4", "a/../b.txt", "/b.mp4", "/b.txt"]
        found = source_clips(_objects(*keys))
        assert {clip.source.key: clip.caption and clip.caption.key for clip in found} == {
            "a//b.mp4": "a//b.txt", "a/b.mp4": "a/b.txt", "a/../b.mp4": "a/../b.txt", "/b.mp4": "/b.txt",
        }  # fmt: skip
        assert len({clip.name for clip in found}) == 4

    def test_markers_of_folders_are_nothing(self) -> None:
        assert source_clips(_objects("clips/", "a.mp4/", "clips_$folder$", "mp4", "a.", "")) == []

    def test_a_key_may_be_as_long_as_s3_takes(self) -> None:
        stem = "é" * 510
        found = source_clips(_objects(f"{stem}.mp4", f"{stem}.mov", f"{stem}.txt"))
        assert len(found[0].name) < 100
        item = Item.of(found[1].source.key, found[1].problem, found[1].reason)
        assert item.message.endswith("another name")

    def test_they_are_read_on_a_real_server(self, s3_server: Server) -> None:
        base = f"s3://{BUCKET}/{uuid4().hex}"
        store = open_store(base, s3_server.spec)
        names = ["my%20clip", "plus+and space", NFC, NFD, "A", "a", "#1?", "日本語", "quote'\""]
        for name in names:
            store.write_bytes(f"{name}.mp4", b"x")
            store.write_bytes(f"{name}.txt", name.encode())
        store.write_bytes("clips/sub/a.mp4", b"x")
        found, skipped = captioned(
            store, source_clips(store.list()), PreprocessingSpec(missing_caption="Skip")
        )
        assert {clip.source.key[:-4]: clip.text for clip in found} == {name: name for name in names}
        assert [(item.clip, item.reason) for item in skipped] == [("clips/sub/a.mp4", "MissingCaption")]


def test_ten_times_the_clips_cost_about_ten_times_the_work() -> None:
    def work(count: int) -> int:
        keys = [f"séries/{number:05d}.{end}" for number in range(count) for end in ("mp4", "txt")]
        objects = _objects(*keys)
        return lines(lambda: found.append(len(source_clips(objects))))

    found: list[int] = []
    few = work(300)
    assert work(3_000) < 11 * few
    assert found == [300, 3_000]


def test_other_containers_are_listed_with_the_command_that_converts_them() -> None:
    (clip,) = source_clips(_objects("my clip.webm"))
    assert clip.problem.startswith(".webm files are not read, only MP4, MOV and M4V; convert it: ffmpeg -i")


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


@given(st.lists(st.sampled_from(["a.mp4", "a.txt", "b.MOV", "sub/a.mp4", "sub/a.txt", "B.mov"]), max_size=20))
def test_a_listing_in_any_order_that_repeats_objects_is_the_same_dataset(keys: list[str]) -> None:
    assert source_clips(_objects(*keys)) == source_clips(_objects(*sorted(set(keys))))
