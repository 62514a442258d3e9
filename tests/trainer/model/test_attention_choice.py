"""Which backend a run gets, and what the log says of it."""

from __future__ import annotations

import logging
import math
import os

import pytest
import torch

from mochi_trainer.errors import DeviceUnavailableError, InvalidInputError
from mochi_trainer.model import DiT
from mochi_trainer.model.attention_choice import BOUNDS, Differences, Shape, choose, differences, use
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.parallel.group import joined
from mochi_trainer.parallel.ranks import ranks_of
from tests.trainer.distributed import run_distributed
from tests.trainer.numerics import TINY

CPU = torch.device("cpu")
SHAPE = Shape(batch=1, tokens=192, heads=3, width=32)
MASKED = Shape(batch=2, tokens=193, heads=3, width=32, masked=True)


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_on_a_cpu_the_flash_kernel_is_chosen_and_its_differences_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert choose([SHAPE, MASKED], CPU, torch.float32, environ={}) == Backend.CPU
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    message = caplog.records[0].getMessage()
    assert message.startswith(
        "attention: cpu on cpu in torch.float32, batch 1, 192 tokens, 3 heads of 32: out "
    )
    assert "dq" in message
    assert "masked" in caplog.records[1].getMessage()


def test_a_backend_beyond_its_bound_is_left_with_a_warning_that_names_it_the_difference_and_the_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bounds = {torch.float32: 1e-12}
    assert choose([SHAPE], CPU, torch.float32, bounds=bounds, environ={}) == Backend.MATH
    warning = caplog.records[0]
    found = differences(Backend.CPU, SHAPE, CPU, torch.float32)
    assert warning.levelname == "WARNING"
    assert warning.getMessage() == (
        f"attention: cpu differs from float32 by {found.worst:.1e}, more than 1.0e-12, with {SHAPE} ({found})"
    )


@pytest.mark.parametrize("wanted", ["flash2", "cudnn", "efficient", "flash3"])
def test_a_backend_that_cannot_run_is_left_for_the_next(
    wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose([SHAPE], CPU, torch.float32, environ={"MOCHI_ATTENTION": wanted}) == Backend.CPU
    assert caplog.records[0].levelname == "WARNING"
    assert caplog.records[0].getMessage().startswith(f"attention: {wanted} cannot be used: ")


def test_the_argument_goes_before_the_variable() -> None:
    environ = {"MOCHI_ATTENTION": "cpu"}
    assert choose([SHAPE], CPU, torch.float32, wanted="math", environ=environ) == Backend.MATH
    assert choose([SHAPE], CPU, torch.float32, environ={"MOCHI_ATTENTION": "math"}) == Backend.MATH
    assert choose([SHAPE], CPU, torch.float32, environ=environ) == Backend.CPU


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidInputError, match="flash3, cudnn, flash2, efficient, cpu, math, got fast"):
        choose([SHAPE], CPU, torch.float32, environ={"MOCHI_ATTENTION": "fast"})


@pytest.mark.parametrize("shape", [SHAPE, MASKED], ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_correct_kernel_is_well_within_the_bound(shape: Shape, dtype: torch.dtype) -> None:
    assert differences(Backend.CPU, shape, CPU, dtype).worst <= BOUNDS[dtype] / 2


def test_the_worst_of_differences_with_one_that_is_no_number_is_no_number() -> None:
    assert math.isnan(Differences(0.1, 0.2, math.nan, 0.1).worst)
    assert not math.nan <= BOUNDS[torch.float32]
    assert Differences(0.1, 0.2, 0.0, 0.1).worst == 0.2


def test_without_gradients_only_the_output_is_measured() -> None:
    found = differences(Backend.CPU, SHAPE, CPU, torch.float32, gradients=False)
    assert found.out > 0
    assert (found.query, found.key, found.value) == (0, 0, 0)


def test_every_block_uses_the_chosen_backend() -> None:
    model = DiT(TINY)
    use(model, Backend.MATH)
    assert [block.attn.backend for block in model.blocks] == [Backend.MATH] * TINY.depth


def test_on_a_gpu_without_a_kernel_training_does_not_go_on_eight_times_slower(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here every backend of a GPU fails, since there is no GPU; the reason of each is in the message."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceUnavailableError, match="no attention kernel can be used on this GPU") as caught:
        choose([SHAPE], torch.device("cuda"), torch.bfloat16, environ={})
    assert all(f"{name}: " in str(caught.value) for name in ("flash3", "cudnn", "flash2", "efficient"))
    assert caught.value.action is not None
    assert "MOCHI_ATTENTION=math" in caught.value.action
    wanted = {"MOCHI_ATTENTION": "math"}
    assert choose([SHAPE], torch.device("cuda"), torch.bfloat16, environ=wanted) == Backend.MATH


def _chosen_by_rank() -> Backend:
    with joined(ranks_of(os.environ, processes=2), CPU, limit=60) as group:
        bounds = {torch.float32: 1e-12 if group.rank == 1 else 1e-4}
        return choose(
            [SHAPE],
            CPU,
            torch.float32,
            bounds=bounds,
            environ={},
            agreed=lambda good: not group.any(not good),
        )


def test_ranks_use_the_first_backend_that_all_of_them_can() -> None:
    assert run_distributed(_chosen_by_rank, 2) == [Backend.MATH, Backend.MATH]


def test_where_determinism_is_asked_for_kernels_without_it_are_left_out() -> None:
    for name in ("cudnn", "flash3"):
        with pytest.raises(InvalidInputError, match=f"must be a deterministic backend.*got {name}"):
            choose([SHAPE], CPU, torch.float32, environ={"MOCHI_ATTENTION": name}, deterministic=True)
    assert choose([SHAPE], CPU, torch.float32, environ={}, deterministic=True) == Backend.CPU
