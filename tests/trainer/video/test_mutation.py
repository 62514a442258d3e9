"""Every mutated file is a reason or valid frames."""

from __future__ import annotations

from pathlib import Path

from tests.trainer.video.mutation import mutants, run

COUNT = 60
"""More by hand: `python -m tests.trainer.video.mutation --count 500`."""


def test_mutated_files_are_a_reason_or_valid_frames(tmp_path: Path) -> None:
    found = run(tmp_path, count=COUNT, seed=1)
    assert sum(found.values()) == COUNT
    assert found["frames"] >= 5
    assert found["Corrupt"] >= 5
    assert not any("crash" in kind for kind in found), found


def test_mutants_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = [path.read_bytes() for _, path in mutants(tmp_path / "a", count=5, seed=3)]
    assert first == [path.read_bytes() for _, path in mutants(tmp_path / "b", count=5, seed=3)]
