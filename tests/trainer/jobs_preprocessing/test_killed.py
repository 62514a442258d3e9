"""Stages that are killed at random moments leave what undisturbed ones leave, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from mochi_trainer.cpus import available
from mochi_trainer.graph.making import UPLOADS
from tests.trainer.jobs_preprocessing.killed import contents, made, preload, stages, write_clips

CLIPS = 8


@pytest.mark.parametrize(
    ("length", "settings"), [(9, {}), (23, {"segments": {"select": "Even"}})], ids=["one segment", "several"]
)
def test_killed_stages_leave_what_undisturbed_ones_leave(
    tmp_path: Path, length: int, settings: dict[str, Any]
) -> None:
    """`python -m tests.bench.killed_stages` makes twenty kills and prints what was done twice."""
    preload()
    for name in ("undisturbed", "killed"):
        write_clips(tmp_path / name / "source", CLIPS, length=length)
    whole, _ = stages(tmp_path / "undisturbed", **settings)
    broken, kills = stages(tmp_path / "killed", random.Random(3), **settings)
    assert contents(tmp_path / "killed", broken) == contents(tmp_path / "undisturbed", whole)
    once, twice = made(tmp_path / "undisturbed"), made(tmp_path / "killed")
    assert set(once.values()) == {1}
    under_way = UPLOADS + available() + 1
    assert sum(twice.values()) <= sum(once.values()) + kills * under_way
