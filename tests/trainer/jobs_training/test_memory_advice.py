"""Running out of a GPU's memory says which single change would fit, by the formula that chose the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mochi_api.prediction.fitting import fits, least_needed
from mochi_api.prediction.gpus import GIB, MIB, RESERVED, Gpu
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work
from mochi_trainer.errors import OutOfMemoryError
from mochi_trainer.jobs.memory_advice import advice, memory_advised
from tests.trainer.training_runs import run_file

LORA = Work(mode="lora", network=NETWORKS["mochi-1"], frames=85, width=848, height=480, rank=64)


def test_on_a_gpu_that_is_too_small_a_shorter_clip_or_a_larger_gpu_is_named() -> None:
    total = 32 * GIB
    words = advice(LORA, total)
    assert words.startswith("predicted need ")
    frames = int(words.partition("preprocessing.frames ")[2].split(",")[0])
    small = Gpu(product="", mebibytes=total // MIB, teraflops=0)
    assert fits(replace(LORA, frames=frames), small)
    assert not fits(replace(LORA, frames=frames + 6), small)
    assert "a GPU such as NVIDIA-" in words
    assert "MOCHI_BLOCKS_LEFT_ALONE" not in words


def test_where_the_formula_was_wrong_less_than_it_said_is_named_first() -> None:
    need = least_needed(LORA)
    words = advice(LORA, need + RESERVED + GIB)
    assert "GiB; use MOCHI_BLOCKS_LEFT_ALONE 1 in workers.env, or preprocessing.frames " in words
    frames = int(words.partition("preprocessing.frames ")[2].split(",")[0])
    assert least_needed(replace(LORA, frames=frames)) <= need - need // 10


def test_without_a_gpu_the_error_is_translated_and_the_tables_advice_stands(tmp_path) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory_advised(run_file(tmp_path)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert caught.value.action is None or torch.cuda.is_available()


def test_what_the_training_chose_itself_is_named_unless_it_was_told_so() -> None:
    full = Work(
        mode="full", network=NETWORKS["mochi-1"], frames=37, width=848, height=480, world=16, pods=2, share=2
    )
    room = least_needed(full) + RESERVED + GIB
    words = advice(full, room)
    for choice in ("MOCHI_WEIGHT_COPIES 1", "MOCHI_SYNCHRONISE_ONCE 0", "MOCHI_BLOCKS_LEFT_ALONE 1"):
        assert f"{choice} in workers.env" in words
        name, value = choice.split()
        assert name not in advice(full, room, environ={name: value})
    swapped = replace(LORA, swapped=20)
    assert "workers.env" not in advice(swapped, least_needed(swapped) + RESERVED + GIB)
