"""Several sizes and still images in one dataset, through the three stages: what each clip becomes, and what is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mochi_api.clips import ClipReason
from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import RunFile
from mochi_api.sizes import Bucket
from mochi_api.spec import PreprocessingSpec, S3Spec
from mochi_trainer.data import Dataset
from mochi_trainer.jobs import captions, check, trim, videos
from mochi_trainer.jobs.copies import Copies
from mochi_trainer.jobs.cutting import _parameters
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.trimmed import trimmed_of
from mochi_trainer.report.clips import gather_clips
from mochi_trainer.report.dataset import sizes
from mochi_trainer.storage import Manifest, open_store, read_manifest
from mochi_trainer.video import encode_mp4, read_frames
from tests.trainer.preprocessing_runs import run_file
from tests.trainer.report.realistic import record

TALL, LONG = Bucket(7, 32, 48), Bucket(13, 48, 32)
WIDE_STILL, TALL_STILL = Bucket(1, 96, 64), Bucket(1, 64, 96)
BUCKETS = [size._asdict() for size in (TALL, LONG, WIDE_STILL, TALL_STILL)]
OWN = Bucket(7, 48, 32)


def moving(path: Path, frames: int, height: int, width: int, seed: int) -> None:
    """A bright square that wanders over noise."""
    rng = np.random.default_rng(seed)
    pictures = np.repeat(rng.integers(0, 120, (1, height, width, 3), np.uint8), frames, axis=0)
    for number, picture in enumerate(pictures):
        picture[8 : height // 2, number : number + width // 3] = 240
    encode_mp4(pictures, path, fps=30)


def write_sources(folder: Path) -> None:
    folder.mkdir(parents=True)
    moving(folder / "short.mp4", 9, 64, 96, 1)
    moving(folder / "long.mp4", 20, 64, 96, 2)
    moving(folder / "tall.mp4", 20, 96, 64, 3)
    rng = np.random.default_rng(4)
    for name, shape in (("wide", (128, 192, 3)), ("high", (192, 128, 3))):
        rough = Image.fromarray(rng.integers(0, 255, (shape[0] // 16, shape[1] // 16, 3), np.uint8))
        rough.resize((shape[1], shape[0])).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    rough.save(folder / "long.jpg")  # of the clip of that name
    for name in ("short", "long", "tall", "wide", "high", "broken"):
        (folder / f"{name}.txt").write_text(f"caption of {name}")


def made(root: Path, **options: Any) -> tuple[RunFile, dict[str, Finished]]:
    """All three stages; the run whose keys name what they left."""
    options = {"buckets": BUCKETS, "maxFailedItemsPercent": 40, "videos": {"reconstructEvery": 1}} | options
    done: dict[str, Finished] = {}
    keys: dict[str, str] = {}
    for stage, job in (("trim", trim), ("captions", captions), ("videos", videos)):
        done[stage] = job.execute(run_file(root, stage=stage, keys=keys, **options))
        result = done[stage].result
        assert result is not None
        keys[stage] = result.cache_key
    return run_file(root, stage="train", keys=keys, **options), done


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("buckets")
    write_sources(folder / "source")
    return folder


@pytest.fixture(scope="module")
def all_sizes(root: Path) -> tuple[RunFile, dict[str, Finished]]:
    return made(root)


def manifest(root: Path, stage: str, finished: Finished) -> Manifest:
    assert finished.result is not None
    return read_manifest(open_store(f"file://{root}/cache", S3Spec()), f"{stage}/{finished.result.cache_key}")


def test_each_clip_has_the_size_that_loses_least_of_it(
    root: Path, all_sizes: tuple[RunFile, dict[str, Finished]]
) -> None:
    _, done = all_sizes
    listed = manifest(root, "trim", done["trim"])
    sizes = {
        line["name"]: Bucket(line["frames"], line["width"], line["height"])
        for line in listed.details["clips"]
    }
    assert sizes == {"short": OWN, "long": LONG, "tall": TALL, "wide": WIDE_STILL, "high": TALL_STILL}
    for name, size in sizes.items():
        frames = read_frames(root / "cache" / listed.key(f"{name}.mov"))
        assert frames.shape == (size.frames, size.height, size.width, 3)
    assert (
        "; by size: 1 of 7x48x32, 1 of 7x32x48, 1 of 13x48x32, 1 of 1x96x64, 1 of 1x64x96"
        in done["trim"].message
    )
    assert "1 still images beside a video of the same name (such as long.jpg)" in done["trim"].message
    (failure,) = done["trim"].failures
    assert (failure.clip, failure.reason) == ("broken.jpg", ClipReason.CORRUPT)


def test_the_report_tells_which_clip_has_which_size(
    root: Path, all_sizes: tuple[RunFile, dict[str, Finished]]
) -> None:
    run, done = all_sizes
    records = [
        record(stage, Outcome(reason=Reason.COMPLETED, stage_result=finished.result))
        for stage, finished in done.items()
    ]
    rows = gather_clips(open_store(run.locations.cache, S3Spec()), records)
    found = {row.source: (row.frames, row.size) for row in rows if row.used}
    assert found["high.png"] == (1, "64×96")
    assert found["long.mp4"] == (13, "48×32")
    assert sizes([row for row in rows if row.used])["1 × 96×64"] == 1


def test_a_still_is_the_picture_that_was_given(
    root: Path, all_sizes: tuple[RunFile, dict[str, Finished]]
) -> None:
    listed = manifest(root, "trim", all_sizes[1]["trim"])
    with Image.open(root / "source/wide.png") as image:
        expected = np.asarray(image.resize((96, 64), Image.Resampling.BICUBIC))
    (picture,) = read_frames(root / "cache" / listed.key("wide.mov"))
    assert np.abs(picture.astype(int) - expected).max() <= 1
    (line,) = (line for line in listed.details["clips"] if line["name"] == "wide")
    assert (line["enlargement"], line["start"], line["caption"]) == (0.5, 0.0, "caption of wide")


def test_latents_have_the_size_of_the_clip_and_one_frame_is_one_latent(
    all_sizes: tuple[RunFile, dict[str, Finished]],
) -> None:
    run, done = all_sizes
    with Dataset.open(run) as dataset:
        shapes = {name: dataset.sample(index).latents.mean.shape for index, name in enumerate(dataset.clips)}
        sizes = dict(zip(dataset.clips, dataset.sizes, strict=True))
    assert shapes == {
        name: (12, (size.frames - 1) // 6 + 1, size.height // 8, size.width // 8)
        for name, size in sizes.items()
    }
    assert shapes["wide"] == (12, 1, 8, 12)
    checked = {line["clip"]: line["psnr"] for line in done["videos"].details["reconstructions"]}
    assert checked.keys() == sizes.keys()
    assert checked["wide"] > 15  # decoded again it is the same picture, not another


def test_a_second_run_reuses_all_of_it(root: Path, all_sizes: tuple[RunFile, dict[str, Finished]]) -> None:
    again, done = made(root)
    assert again.keys == all_sizes[0].keys
    assert all(finished.result is not None and finished.result.cache_hit for finished in done.values())


def test_latents_are_shared_with_a_run_of_one_size(
    root: Path, all_sizes: tuple[RunFile, dict[str, Finished]]
) -> None:
    _, done = made(root, buckets=[], maxFailedItemsPercent=0)
    assert done["videos"].message.startswith("made latents of 3 clips, 1 of them from the cache")
    assert "by size" not in done["trim"].message
    assert "sizes" not in manifest(root, "videos", done["videos"]).details


def test_the_first_step_counts_the_stills_too(root: Path) -> None:
    found = check.execute(run_file(root, stage="check", buckets=BUCKETS))
    assert found.message.startswith("6 clips are ready to be used")
    assert check.execute(run_file(root, stage="check")).message == "3 clips are ready to be used"


def test_a_copy_that_is_gone_is_cut_again_in_its_size(
    root: Path, all_sizes: tuple[RunFile, dict[str, Finished]], tmp_path: Path
) -> None:
    run, done = all_sizes
    listed = manifest(root, "trim", done["trim"])
    trimmed = trimmed_of(listed)
    cache = open_store(run.locations.cache, S3Spec())
    for name in ("tall", "high"):
        (clip,) = (clip for clip in trimmed.clips if clip.name == name)
        before = read_frames(root / "cache" / listed.key(f"{name}.mov"))
        (root / "cache" / listed.key(f"{name}.mov")).unlink()
        assert np.array_equal(Copies(run, cache, trimmed, tmp_path).frames(clip), before)


def test_nothing_is_another_without_buckets() -> None:
    """The parameters that keys are made of are those of before, and no picture is looked at."""
    spec = PreprocessingSpec.model_validate({"frames": 7, "width": 48, "height": 32})
    assert _parameters(spec) == {
        "kept": 7, "exact": True, "size": [48, 32], "fps": 30, "start": 0.0, "crop": [0.5, 0.5],
    }  # fmt: skip
    assert "buckets" not in spec.model_dump(exclude_defaults=True)
