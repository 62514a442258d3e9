"""The stages captions and videos on real clips with the small model, and the dataset that training reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import load_file

from mochi_api.runfile import RunFile
from mochi_api.spec import S3Spec
from mochi_trainer.data import Dataset
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.jobs import captions, trim, videos
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.storage import open_store, put_entry, read_manifest, write_manifest
from mochi_trainer.vae import to_frames, to_tensor
from mochi_trainer.video import read_frames
from tests.trainer.preprocessing_runs import run_file, write_source
from tests.trainer.video.clips import grey_levels, real_clip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFile:
    """A run after all three stages, with a caption that is too long."""
    root: Path = tmp_path_factory.mktemp("run")
    write_source(root / "source")
    (root / "source" / "bunny.txt").write_text("word " * 100)
    keys = {"trim": trim.execute(run_file(root)).result.cache_key}
    settings = {"videos": {"reconstructEvery": 2}}
    for stage, job in (("captions", captions), ("videos", videos)):
        keys[stage] = job.execute(run_file(root, stage=stage, keys=keys, **settings)).result.cache_key
    return run_file(root, stage="train", keys=keys, **settings)


def test_both_stages_are_reused(run: RunFile) -> None:
    for job in (captions, videos):
        again = job.execute(run)
        assert again.result.cache_hit
        assert again.message.startswith("reused")
        assert (again.result.items_total, again.result.items_done) == (2, 2)


def test_a_caption_that_is_cut_off_is_reported(run: RunFile) -> None:
    done = captions.execute(run)
    assert done.details == {"truncated": {"bunny.mp4": 500}}
    assert done.message.endswith("; cut off after 256 tokens: bunny.mp4 (500)")


def test_every_second_clip_is_decoded_again_and_scored(run: RunFile) -> None:
    (entry,) = videos.execute(run).details["reconstructions"]
    assert entry["clip"] == "bunny"
    assert 5 < entry["psnr"] < 99
    assert 0 < entry["ssim"] < 1
    assert entry["picture"].startswith(f"videos/{run.keys.videos}/reconstructions/")
    folder = Path(run.locations.cache.removeprefix("file://"))
    assert (folder / entry["picture"]).read_bytes().startswith(b"\x89PNG")


def _embed(root: Path, **preprocessing: Any) -> dict[str, Finished]:
    """All three stages of a run below `root`."""
    done: dict[str, Finished] = {}
    for stage, job in (("trim", trim), ("captions", captions), ("videos", videos)):
        keys = {name: finished.result.cache_key for name, finished in done.items()}
        done[stage] = job.execute(run_file(root, stage=stage, keys=keys, **preprocessing))
    return done


def _hits(done: dict[str, Finished]) -> dict[str, bool]:
    return {stage: finished.result.cache_hit for stage, finished in done.items()}


def test_another_caption_encodes_no_clip_again(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    first = _embed(tmp_path)
    (tmp_path / "source" / "bunny.txt").write_text("another caption")
    second = _embed(tmp_path)
    assert _hits(second) == {"trim": True, "captions": False, "videos": True}
    assert second["videos"].result.cache_key == first["videos"].result.cache_key
    keys = {stage: finished.result.cache_key for stage, finished in second.items()}
    with Dataset.open(run_file(tmp_path, stage="train", keys=keys)) as dataset:
        assert dataset.captions[0] == "another caption"


def test_another_clip_encodes_no_caption_again(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    _embed(tmp_path)
    shutil.copyfile(real_clip("bikes.mp4"), tmp_path / "source" / "bunny.mp4")
    assert _hits(_embed(tmp_path)) == {"trim": False, "captions": True, "videos": False}


def test_other_reconstructions_are_made_from_the_latents_that_are_there(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    none = _embed(tmp_path, videos={"reconstructEvery": 0})["videos"]
    assert (none.result.cache_hit, none.details) == (False, {"reconstructions": []})
    latents = _file(tmp_path / "cache", "videos", none.result.cache_key, "bunny")
    stamp = latents.stat().st_mtime_ns
    every = _embed(tmp_path, videos={"reconstructEvery": 1})["videos"]
    assert every.result == none.result.model_copy(update={"cache_hit": True})
    assert [entry["clip"] for entry in every.details["reconstructions"]] == ["bunny", "carphone"]
    assert every.message.startswith("reused latents of 2 clips, decoded again at ")
    picture = tmp_path / "cache" / every.details["reconstructions"][1]["picture"]
    made = picture.stat().st_mtime_ns
    assert _embed(tmp_path, videos={"reconstructEvery": 1})["videos"].details == every.details
    assert picture.stat().st_mtime_ns == made
    assert latents.stat().st_mtime_ns == stamp


def test_training_reads_posteriors_and_features(run: RunFile) -> None:
    with Dataset.open(run) as dataset:
        assert dataset.clips == ("bunny", "carphone")
        assert dataset.captions[1] == "the clip carphone.MOV"
        sample = dataset.sample(1)
        assert sample.latents.mean.shape == sample.latents.logvar.shape == (12, 2, 4, 6)
        assert sample.latents.mean.dtype == torch.float32
        assert sample.text.count == len(b"the clip carphone.MOV") + 1
        assert dataset.sample(0).text.count == 256
        assert dataset.empty_text().count == 0


def test_latents_are_those_of_the_clip_not_of_its_neighbour(run: RunFile) -> None:
    cache = Path(run.locations.cache.removeprefix("file://"))
    stored = load_file(_file(cache, "videos", run.keys.videos, "carphone"))["mean"]
    assert stored.dtype == torch.bfloat16
    with Dataset.open(run) as dataset:
        assert torch.equal(dataset.sample(1).latents.mean, stored.float())
        assert not torch.equal(dataset.sample(0).latents.mean, stored.float())


def _file(cache: Path, stage: str, key: str, clip: str) -> Path:
    """Where a stage's output for one clip lies."""
    manifest = read_manifest(open_store(f"file://{cache}", S3Spec()), f"{stage}/{key}")
    return cache / manifest.key(f"{clip}.safetensors")


def test_one_more_clip_is_all_that_is_encoded(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    _embed(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    shutil.copyfile(real_clip("bikes.mp4"), tmp_path / "source" / "more.mp4")
    (tmp_path / "source" / "more.txt").write_text("the clip\ncarphone.MOV")
    done = _embed(tmp_path)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1, "its caption is one that was there"
    assert done["videos"].result.items_done == 3


@pytest.mark.parametrize("harm", ["gone", "altered", "truncated", "gone while the stage runs"])
def test_a_trimmed_copy_that_is_gone_or_altered_is_cut_again(tmp_path: Path, harm: str) -> None:
    """Somebody tidied the bucket between two stages."""
    cache, latents, keys = _without_latents(tmp_path)
    trimmed = read_manifest(open_store(f"file://{cache}", S3Spec()), f"trim/{keys['trim']}")
    copy = cache / trimmed.key("bunny.mov")
    good = copy.read_bytes()
    run = run_file(tmp_path, stage="videos", keys=keys)
    if harm == "altered":
        copy.write_bytes(bytes(len(good)))
    elif harm == "truncated":
        copy.write_bytes(good[:-9])
    elif harm == "gone":
        copy.unlink()
    if harm == "gone while the stage runs":
        original = videos.Copies.frames

        def gone(self: videos.Copies, clip: Any) -> Any:
            copy.unlink(missing_ok=True)
            return original(self, clip)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(videos.Copies, "frames", gone)
            done = videos.execute(run)
    else:
        done = videos.execute(run)
    assert _file(cache, "videos", done.result.cache_key, "bunny").read_bytes() == latents
    assert copy.read_bytes() == good


def test_copies_of_an_earlier_version_are_encoded_alike(tmp_path: Path) -> None:
    """An image whose tag was moved between two stages finds H.264 without loss, in MP4."""
    cache, latents, keys = _without_latents(tmp_path)
    store, prefix = open_store(f"file://{cache}", S3Spec()), f"trim/{keys['trim']}"
    trimmed = read_manifest(store, prefix)
    entries = [
        put_entry(store, prefix, _as_before(cache / trimmed.key(name), tmp_path), f"{Path(name).stem}.mp4")
        if name.endswith(".mov")
        else entry
        for name, entry in trimmed.entries.items()
    ]
    write_manifest(store, prefix, entries, trimmed.details)
    done = videos.execute(run_file(tmp_path, stage="videos", keys=keys))
    assert _file(cache, "videos", done.result.cache_key, "bunny").read_bytes() == latents


def test_a_list_without_copies_says_which_and_whose_move_it_is(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    keys = {"trim": trim.execute(run_file(tmp_path)).result.cache_key}
    store, prefix = open_store(f"file://{tmp_path / 'cache'}", S3Spec()), f"trim/{keys['trim']}"
    trimmed = read_manifest(store, prefix)
    strips = [entry for name, entry in trimmed.entries.items() if name.endswith(".jpg")]
    write_manifest(store, prefix, strips, trimmed.details)
    with pytest.raises(MissingObjectError, match=r"no copy of .*; apply the run anew"):
        videos.execute(run_file(tmp_path, stage="videos", keys=keys))


def _without_latents(root: Path) -> tuple[Path, bytes, dict[str, str]]:
    """A cache after all stages whose latents are gone; those of one clip; the keys of the stages before."""
    write_source(root / "source")
    undisturbed, cache = _embed(root), root / "cache"
    latents = _file(cache, "videos", undisturbed["videos"].result.cache_key, "bunny").read_bytes()
    shutil.rmtree(cache / "videos")
    keys = {stage: done.result.cache_key for stage, done in undisturbed.items() if stage != "videos"}
    return cache, latents, keys


def _as_before(copy: Path, folder: Path) -> Path:
    """A copy as versions before the sixth wrote it."""
    path = folder / f"{copy.stem}.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264rgb", rate=30, options={"qp": "0", "preset": "superfast"})
        frames = read_frames(copy)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_stage_without_its_input_names_the_stage_before(run: RunFile) -> None:
    absent = run.model_copy(update={"keys": run.keys.model_copy(update={"trim": "f" * 32})})
    for job in (captions, videos):
        with pytest.raises(MissingObjectError, match="output of the stage trim is not complete"):
            job.execute(absent)
    absent = run.model_copy(update={"keys": run.keys.model_copy(update={"videos": "f" * 32})})
    with pytest.raises(MissingObjectError, match="output of the stage videos is not complete"):
        Dataset.open(absent)


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    frames = grey_levels(7)
    tensor = to_tensor(frames)
    assert tensor.shape == (1, 3, 7, 32, 48)
    assert (float(tensor.min()), tensor.dtype) == (-1.0, torch.float32)
    assert (to_frames(tensor) == frames).all()
