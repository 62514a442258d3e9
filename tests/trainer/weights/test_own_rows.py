"""A rank reads its own rows only, and they are those of the whole model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.parallel.group import joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import own_rows, shard, whole
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights import fill_dit, load_dit, meta_dit
from mochi_trainer.weights.contents import Located
from mochi_trainer.weights.diffusers_layout import Segment
from mochi_trainer.weights.filling import Read, reads, whole_files
from mochi_trainer.weights.stored import Listed, StoredFile
from tests.trainer.diffusers_files import save_diffusers
from tests.trainer.distributed import run_distributed
from tests.trainer.loading import (
    SMALL,
    CountingStore,
    state,
    write_published,
    write_shards,
)

CPU = torch.device("cpu")


def _filled(folder: Path, world: int) -> tuple[dict[str, Any], int]:
    """The whole tensors after two ranks have read their rows, and the bytes that this one read."""
    with joined(ranks_of(os.environ, processes=world), CPU, limit=60) as group:
        model = meta_dit(SMALL)
        shard(model, group, device=CPU, compute=torch.float32)
        model.to_empty(device=CPU)
        store = CountingStore(folder)
        fill_dit(SMALL, store, own_rows(model))
        return {name: whole(p.detach()).numpy().copy() for name, p in model.named_parameters()}, store.total


@pytest.mark.parametrize("layout", ["published", "shards", "diffusers"])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_read_the_model_in_equal_parts(tmp_path: Path, layout: str, world: int) -> None:
    if layout == "published":
        write_published(tmp_path)
    elif layout == "shards":
        write_shards(state("dit"), tmp_path / "dit", 3)
    else:
        save_diffusers(tmp_path, max_shard_size="300KB")
    files = [*tmp_path.glob("dit*.safetensors"), *tmp_path.glob("transformer/*.safetensors")]
    size = sum(path.stat().st_size for path in files)
    for tensors, read in run_distributed(_filled, world, tmp_path, world):
        assert tensors.keys() == state("dit").keys()
        for name, tensor in state("dit").items():
            assert torch.equal(torch.from_numpy(tensors[name]), tensor), name
        assert size / world * 0.95 < read < size / world * 1.15


def test_one_rank_has_the_bits_that_loading_in_one_piece_gives(tmp_path: Path) -> None:
    write_published(tmp_path)
    ((tensors, read),) = run_distributed(_filled, 1, tmp_path, 1)
    for name, tensor in load_dit(SMALL, tmp_path).state_dict().items():
        assert torch.equal(torch.from_numpy(tensors[name]), tensor), name
    assert read == (tmp_path / "dit.safetensors").stat().st_size


KINDS = {"F32": 4, "BF16": 2, "F64": 8}


@st.composite
def files_and_targets(
    draw: st.DrawFn,
) -> tuple[dict[str, Located], dict[str, list[Segment]], dict[str, range]]:
    """Tensors one after the other in two files, targets that join or swap parts of them, and some numbers of each target."""
    tensors: dict[str, Located] = {}
    segments: dict[str, list[Segment]] = {}
    wanted: dict[str, range] = {}
    ends = [100, 40]
    for index in range(draw(st.integers(1, 6))):
        made = []
        for part in range(draw(st.integers(1, 3))):
            which, half = draw(st.integers(0, 1)), draw(st.integers(1, 9))
            dtype = draw(st.sampled_from(sorted(KINDS)))
            name = f"tensor-{index}-{part}"
            file = StoredFile(LocalStore(Path("/nowhere")), f"file-{which}", 10_000, "")
            tensors[name] = Located(file, Listed(dtype, (2 * half,), ends[which]))
            ends[which] += 2 * half * KINDS[dtype]
            order = draw(
                st.sampled_from(
                    [[Segment(name, 0, 2 * half)], [Segment(name, half, half), Segment(name, 0, half)]]
                )
            )
            made += order
        target = f"target-{index}"
        segments[target] = made
        length = sum(segment.numbers for segment in made)
        first = draw(st.integers(0, length))
        wanted[target] = range(first, draw(st.integers(first, length)))
    return tensors, segments, wanted


def _sources(tensors: Mapping[str, Located], segments: list[Segment]) -> list[tuple[str, int]]:
    """For each number of a target the file and byte it comes from."""
    found = []
    for segment in segments:
        file, listed = tensors[segment.name]
        item = KINDS[listed.dtype]
        found += [(file.key, listed.start + (segment.first + i) * item) for i in range(segment.numbers)]
    return found


@given(files_and_targets(), st.integers(8, 64))
def test_the_plan_brings_every_wanted_number_once_from_its_place(
    given: tuple[dict[str, Located], dict[str, list[Segment]], dict[str, range]], piece: int
) -> None:
    tensors, segments, wanted = given
    plan = reads(tensors, segments, wanted, piece)
    placed: dict[str, dict[int, tuple[str, int]]] = {name: {} for name in wanted}
    for read in plan:
        assert 0 < read.length <= piece
        at = read.start
        for span in read.spans:
            assert (span.file.key, span.start) == (read.file.key, at)
            at += span.length
            item = KINDS[span.dtype]
            for i in range(span.numbers):
                assert span.first + i not in placed[span.target]
                placed[span.target][span.first + i] = (span.file.key, span.start + i * item)
        assert at == read.start + read.length
    for name, numbers in wanted.items():
        expected = _sources(tensors, segments[name])[numbers.start : numbers.stop]
        assert [placed[name][i] for i in sorted(placed[name])] == expected
    assert plan == sorted(plan, key=lambda read: (read.file.key, read.start))


def test_only_a_file_without_a_gap_counts_as_whole() -> None:
    file = StoredFile(LocalStore(Path("/nowhere")), "file", 100, "")
    whole_plan = [Read(file, 10, 50, ()), Read(file, 60, 40, ())]
    assert whole_files(whole_plan, {"file": 10}) == {"file"}
    assert whole_files(whole_plan[1:], {"file": 10}) == set()
    assert whole_files([Read(file, 10, 40, ()), whole_plan[1]], {"file": 10}) == set()
    assert whole_files(whole_plan[:1], {"file": 10}) == set()
