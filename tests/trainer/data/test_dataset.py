"""Nothing is trained on that is not what was stored, and it is read when it is needed."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import torch

from mochi_api.runfile import CacheKeys, RunFile
from mochi_trainer.data import Dataset
from mochi_trainer.errors import InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.storage import open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import FaultProxy, fault_proxy
from tests.trainer.training_runs import KEY, run_file, write_dataset


def altered(root: Path, clip: str) -> None:
    path = root / "cache" / "videos" / KEY / f"{clip}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def in_s3(root: Path, server: Server, clips: int) -> RunFile:
    """A run whose dataset lies on the S3 server."""
    write_dataset(root, clips=clips)
    cache = f"s3://{BUCKET}/{uuid4().hex}/cache"
    store = open_store(cache, server.spec)
    for path in (root / "cache").rglob("*"):
        if path.is_file():
            store.put(path, str(path.relative_to(root / "cache")))
    run = run_file(root)
    return run.model_copy(
        update={"locations": run.locations.model_copy(update={"cache": cache}), "s3": server.spec}
    )


def clips_read(proxy: FaultProxy) -> list[str]:
    """Names of the latents that were asked for, in order."""
    asked = (request.path for request in proxy.seen if request.method == "GET" and "/videos/" in request.path)
    return [path.rpartition("/")[2].removesuffix(".safetensors") for path in asked if "clip-" in path]


def test_a_changed_object_is_found_when_it_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    altered(tmp_path, "clip-1")
    with Dataset.open(run_file(tmp_path)) as dataset:
        assert dataset.sample(0).clip == "clip-0"
        with pytest.raises(StorageError, match=r"clip-1\.safetensors is not what its manifest lists"):
            dataset.sample(1)
        coming = dataset.samples([2, 1, 0])
        assert next(coming).clip == "clip-2"
        with pytest.raises(StorageError, match=r"clip-1\.safetensors is not what its manifest lists"):
            next(coming)


def test_a_missing_object_is_found_before_training(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "cache" / "captions" / KEY / "clip-2.safetensors").unlink()
    with pytest.raises(
        MissingObjectError, match=r"stage captions is not complete.*clip-2\.safetensors is gone"
    ):
        Dataset.open(run_file(tmp_path))


def test_a_rank_that_does_not_compare_asks_for_two_lists_only(tmp_path: Path, s3_server: Server) -> None:
    run = in_s3(tmp_path, s3_server, clips=2)
    with fault_proxy(run.s3, lambda _: None) as proxy:
        with Dataset.open(run.model_copy(update={"s3": proxy.spec}), compared=False) as dataset:
            assert len(dataset) == 2
        assert [request.path.rpartition("/")[2] for request in proxy.seen] == ["manifest.json"] * 2


STRANGE = {
    "no frame": ("mean", (12, 0, 4, 6), r"latents clip-1.safetensors: mean must have 12 channels, .*, got \[12, 0, 4, 6\]"),
    "no column": ("mean", (12, 2, 4, 0), "mean must have 12 channels"),
    "a channel too few": ("mean", (11, 2, 4, 6), "mean must have 12 channels"),
    "half a patch": ("mean", (12, 2, 4, 7), "columns that are multiples of 2"),
    "no batch": ("mean", (1, 12, 2, 4, 6), "mean must have 12 channels"),
    "another logvar": ("logvar", (12, 1, 4, 6), "logvar must have the shape of mean"),
    "features of another encoder": ("features", (5, 4096), "features clip-1.safetensors: features must have 64 numbers a token"),
    "features of one token": ("features", (64,), r"features must have 64 numbers a token, got \[64\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGE)
def test_latents_and_features_of_another_model_are_refused_by_clip_before_anything_computes(
    case: str, tmp_path: Path
) -> None:
    tensor, shape, words = STRANGE[case]
    write_dataset(tmp_path, others={"clip-1": {tensor: torch.zeros(shape)}})
    with Dataset.open(run_file(tmp_path)) as dataset:
        dataset.sample(0)
        with pytest.raises(InvalidInputError, match=words) as caught:
            dataset.sample(1)
    assert "cachePolicy: Refresh" in (caught.value.action or "")


def test_an_object_that_goes_later_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    with Dataset.open(run_file(tmp_path)) as dataset:
        (tmp_path / "cache" / "videos" / KEY / "clip-2.safetensors").unlink()
        with pytest.raises(MissingObjectError, match=r"videos/0+/clip-2\.safetensors"):
            dataset.sample(2)


def test_a_run_file_without_keys_is_refused(tmp_path: Path) -> None:
    run = run_file(tmp_path).model_copy(update={"keys": CacheKeys()})
    with pytest.raises(InvalidInputError, match=r"keys\.videos of the run file"):
        Dataset.open(run)


def test_samples_are_the_clips_in_the_order_asked_for_whatever_is_kept(tmp_path: Path) -> None:
    write_dataset(tmp_path, clips=5)
    order = [3, 1, 4, 1, 0, 2, 2, 3, 0, 4, 1, 3, 3, 2, 0, 1] * 2
    with Dataset.open(run_file(tmp_path)) as all_kept, Dataset.open(run_file(tmp_path), room=0) as none_kept:
        expected = [all_kept.sample(index) for index in order]
        for dataset in (all_kept, none_kept):
            for ours, theirs in zip(dataset.samples(order), expected, strict=True):
                assert ours.clip == theirs.clip
                assert torch.equal(ours.latents.mean, theirs.latents.mean)
                assert torch.equal(ours.text.features, theirs.text.features)


def test_clips_are_read_ahead_once_and_not_before_they_are_near(tmp_path: Path, s3_server: Server) -> None:
    run = in_s3(tmp_path, s3_server, clips=30)
    with fault_proxy(run.s3, lambda _: None) as proxy:
        with Dataset.open(run.model_copy(update={"s3": proxy.spec})) as dataset:
            assert clips_read(proxy) == []
            coming = dataset.samples(range(30))
            next(coming)
            dataset.close()  # what is being read is read
            ahead = clips_read(proxy)
        assert 1 <= len(ahead) <= 9
        assert set(ahead) <= set(dataset.clips[:9])
        with Dataset.open(run.model_copy(update={"s3": proxy.spec})) as dataset:
            proxy.seen.clear()
            assert len(list(dataset.samples([*range(30), *range(30)]))) == 60
        assert sorted(clips_read(proxy)) == sorted(dataset.clips)


def test_what_does_not_fit_is_read_again(tmp_path: Path, s3_server: Server) -> None:
    run = in_s3(tmp_path, s3_server, clips=4)
    one = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("clip-0.safetensors"))
    with fault_proxy(run.s3, lambda _: None) as proxy:
        with Dataset.open(run.model_copy(update={"s3": proxy.spec}), room=2 * one + one // 2) as dataset:
            for _ in range(3):
                for index in range(4):
                    dataset.sample(index)
        read = clips_read(proxy)
    assert [read.count(clip) for clip in dataset.clips] == [1, 1, 3, 3]
