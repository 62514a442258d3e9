"""Copies of a state: the bytes of the library's own files, untouched by what training does afterwards, where there is room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi_trainer import host_memory
from mochi_trainer.errors import DiskFullError
from mochi_trainer.storage import Store, file_sha256
from mochi_trainer.train.copies import IN_FLIGHT, Copy, DiskCopy, HostCopy, copy_for
from mochi_trainer.train.shard_bytes import file_pieces, file_size

GIB = 1 << 30


def tensors(seed: int = 1) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {
        "weight/b": torch.randn(3, 5, generator=draws),
        "weight/ä": torch.randn(1200, 1000, generator=draws),
        "exp_avg/empty": torch.empty(0, 7),
        "exp_avg/half": torch.randn(7, generator=draws).to(torch.bfloat16),
        "exp_avg/one": torch.tensor(2.5),
        "exp_avg/turned": torch.randn(6, 4, generator=draws).t(),
        "exp_avg/wide": torch.randn(2, generator=draws, dtype=torch.float64),
    }


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors().items()}, tmp_path / "file")
    ours = b"".join(file_pieces(tensors()))
    assert ours == (tmp_path / "file").read_bytes()
    assert len(ours) == file_size(tensors())


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_copy_is_what_was_there_when_it_was_taken(kind: str, store: Store, tmp_path: Path) -> None:
    copy: Copy = HostCopy() if kind == "memory" else DiskCopy(tmp_path)
    for seed in (1, 2):
        live = tensors(seed)
        copy.take(live)
        for tensor in live.values():
            tensor.mul_(0).add_(7)
        entry = copy.put(store, "folder", "shard", lambda: None)
        store.get("folder/shard", tmp_path / "back")
        found = load_file(tmp_path / "back")
        assert found.keys() == tensors(seed).keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors(seed).items())
        assert entry.sha256 == file_sha256(tmp_path / "back")


def test_a_copy_in_memory_is_made_once(store: Store) -> None:
    """Another step goes into the same memory; a tensor that is new has its own."""
    copy = HostCopy()
    copy.take({"weight/a": torch.zeros(4)})
    before = copy._tensors["weight/a"].data_ptr()
    copy.take({"weight/a": torch.ones(4), "exp_avg/a": torch.ones(4)})
    assert copy._tensors["weight/a"].data_ptr() == before
    assert copy._tensors.keys() == {"weight/a", "exp_avg/a"}


@pytest.mark.parametrize(
    ("free", "kind"),
    [(None, HostCopy), (2 * (GIB + IN_FLIGHT), HostCopy), (GIB + IN_FLIGHT, DiskCopy), (0, DiskCopy)],
)
def test_the_copy_is_in_memory_where_a_fifth_of_what_is_free_stays_free(
    free: int | None, kind: type, tmp_path: Path
) -> None:
    assert type(copy_for(GIB, free, tmp_path)) is kind


def test_a_disk_that_is_too_small_is_named_beforehand(tmp_path: Path) -> None:
    with pytest.raises(
        DiskFullError, match=rf"the copy of a checkpoint.* needs 1e\+06 GiB, {tmp_path} has"
    ) as caught:
        copy_for(1_000_000 * GIB, 0, tmp_path)
    assert "raise the memory of the training pods" in str(caught.value.action)


def test_memory_is_that_of_the_node_and_no_more_than_the_cgroup_leaves(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\nactive_file 7\n")

    def found(limit: str) -> int | None:
        (tmp_path / "memory.max").write_text(limit)
        return host_memory.available(tmp_path, tmp_path / "meminfo")

    assert found("max\n") == 5000 * 1024
    assert found("4000000\n") == 1_500_000
    assert found("90000000\n") == 5000 * 1024
    assert found("1000\n") == 0
    assert host_memory.available(tmp_path / "none", tmp_path / "none") is None
