"""Nothing is trained on that is not what was stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from mochi_api.runfile import CacheKeys
from mochi_trainer.data import Dataset
from mochi_trainer.errors import InvalidInputError, MissingObjectError, StorageError
from tests.trainer.training_runs import KEY, run_file, write_dataset


def test_a_changed_object_is_found(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    path = tmp_path / "cache" / "videos" / KEY / "clip-1.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"clip-1\.safetensors is not what its manifest lists"):
        Dataset.open(run_file(tmp_path))


def test_a_missing_object_is_found_before_training(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "cache" / "captions" / KEY / "clip-2.safetensors").unlink()
    with pytest.raises(
        MissingObjectError, match=r"stage captions is not complete.*clip-2\.safetensors is gone"
    ):
        Dataset.open(run_file(tmp_path))


def test_a_run_file_without_keys_is_refused(tmp_path: Path) -> None:
    run = run_file(tmp_path).model_copy(update={"keys": CacheKeys()})
    with pytest.raises(InvalidInputError, match=r"keys\.videos of the run file"):
        Dataset.open(run)


def test_closing_removes_the_local_copies_it_made_and_no_others(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    with Dataset.open(run_file(tmp_path), folder=tmp_path / "copies") as dataset:
        assert len(dataset) == 3
    assert (tmp_path / "copies" / "videos" / "clip-0.safetensors").is_file()
