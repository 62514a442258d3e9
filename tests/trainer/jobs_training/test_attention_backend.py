"""The shapes for which a run checks its attention."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.attention_backend import sampling_backend, training_backend
from mochi_trainer.jobs.sampling import Settings
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.presets import preset_named
from mochi_trainer.vae import latent_shape
from tests.trainer.distributed import run_distributed
from tests.trainer.training_runs import run_file

CPU = torch.device("cpu")


def lengths(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Tokens of the shapes that the log names."""
    return [int(record.getMessage().split(" tokens")[0].split()[-1]) for record in caplog.records]


def test_training_is_checked_without_a_caption_with_half_a_tile_left_over_and_with_the_longest_caption(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = run_file(tmp_path)
    assert training_backend(run, CPU, torch.float32, Group()) == Backend.CPU
    shortest, half_tile, longest = lengths(caplog)
    frames, rows, columns = latent_shape(
        run.preprocessing.frames, run.preprocessing.height, run.preprocessing.width
    )
    assert shortest == frames * rows * columns // 4
    assert half_tile % 128 == 64
    assert shortest <= half_tile <= longest
    assert longest == shortest + preset_named(run.model.preset).dit.text_tokens
    assert all("dq" in record.getMessage() for record in caplog.records)


def test_sampling_is_checked_with_the_longest_caption(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(
        preset="nano", source=None, device=CPU, frames=13, width=112, height=64, fps=30, seed=1, guidance=6.0,
        sigmas=(1.0, 0.0),
    )  # fmt: skip
    assert sampling_backend(settings, torch.float32) == Backend.CPU
    assert lengths(caplog) == [3 * 4 * 7 + preset_named("nano").dit.text_tokens]


def test_the_variable_names_the_backend_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCHI_ATTENTION", "math")
    assert training_backend(run_file(tmp_path), CPU, torch.float32, Group()) == Backend.MATH
    monkeypatch.setenv("MOCHI_ATTENTION", "fastest")
    with pytest.raises(InvalidInputError, match=r"MOCHI_ATTENTION must be one of .*, got fastest"):
        training_backend(run_file(tmp_path), CPU, torch.float32, Group())


def _named_on_rank_0(root: Path) -> Backend:
    os.environ["MOCHI_ATTENTION"] = "math" if os.environ["RANK"] == "0" else "cpu"
    with joined(ranks_of(os.environ, processes=2), CPU, limit=60) as group:
        return training_backend(run_file(root), CPU, torch.float32, group)


def test_the_variable_of_rank_0_counts_for_all(tmp_path: Path) -> None:
    assert run_distributed(_named_on_rank_0, 2, tmp_path) == [Backend.MATH, Backend.MATH]
