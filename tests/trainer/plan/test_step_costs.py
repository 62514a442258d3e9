"""What a step of the published model costs: operations against the floor that computes no attention twice, and memory.

The whole table, traced with all 48 blocks, is `tests/bench/step_costs.py`.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mochi_trainer.lora import LoraParams
from mochi_trainer.model import DiTParams
from mochi_trainer.plan import trace_step, traced_by_few
from mochi_trainer.plan.launches import Launches
from mochi_trainer.plan.live_bytes import LiveBytes
from tests.trainer.plan_costs import Mode, attention_kept, costs

GB = 10**9


@pytest.mark.parametrize(
    ("frames", "mode", "world", "left_alone", "times", "gigabytes"),
    [
        pytest.param(37, "lora", 1, 0, 1.02, 34, id="lora-37"),
        pytest.param(37, "lora", 1, 18, 0.93, 80, id="lora-37-of-80-GB"),
        pytest.param(85, "lora", 1, 0, 1.02, 45, id="lora-85"),
        pytest.param(85, "lora", 1, 4, 0.99, 80, id="lora-85-of-80-GB"),
        pytest.param(163, "lora", 1, 0, 1.02, 62, id="lora-163"),
        pytest.param(85, "full", 8, 0, 1.02, 48, id="full-85-on-8"),
        pytest.param(163, "full", 8, 0, 1.02, 62, id="full-163-on-8"),
    ],
)
def test_a_step_costs_what_it_must(
    frames: int, mode: Mode, world: int, left_alone: int, times: float, gigabytes: float
) -> None:
    found = costs(frames, mode, world=world, left_alone=left_alone)
    assert found.flops <= times * attention_kept(frames, mode)
    assert found.peak_bytes <= gigabytes * GB


SMALL = DiTParams(
    depth=3, visual_width=64, text_width=32, heads=2, text_feature_width=64, pooling_heads=2, timestep_width=32,
    mlp_multiple=32,
)  # fmt: skip


def test_blocks_left_alone_cost_memory_and_save_operations() -> None:
    traces = [
        trace_step(SMALL, 37, "lora", left_alone=number, height=480, width=848, lora=LoraParams(rank=4))
        for number in (0, 1, 3)
    ]
    assert traces[2].peak_bytes > traces[0].peak_bytes
    assert sorted((each.flops for each in traces), reverse=True) == [each.flops for each in traces]
    assert len({each.attention_flops for each in traces}) == 1
    assert len({each.resident_bytes for each in traces}) == 1


def test_a_storage_counts_with_the_size_that_it_has() -> None:
    with LiveBytes() as live:
        first = torch.empty(100, dtype=torch.uint8)
        second = torch.empty(40, dtype=torch.uint8)
        assert live.now["cpu"] == 140
        first.untyped_storage().resize_(0)
        assert live.now["cpu"] == 40
        first.untyped_storage().resize_(60)
        del second
        assert (live.now["cpu"], live.peak["cpu"]) == (60, 140)


def test_operators_are_counted_with_what_they_read_and_write() -> None:
    a, b = torch.zeros(4, 6), torch.zeros(6, 2)
    with Launches() as counted:
        product = a @ b
        product.t().contiguous()
        torch.empty(100)
        product.add_(1)
        product.copy_(torch.zeros(1, 2).expand(4, 2))
    # the product; its transpose, read and written; the sum in place; zeros written; the row that fills four
    assert counted.moved == 4 * ((24 + 12 + 8) + 16 + 16 + 2 + (2 + 8))
    assert counted.between == counted.moved - 4 * (24 + 12 + 8)
    assert counted.operators == 5


def test_a_fused_update_reads_and_writes_all_that_it_has() -> None:
    weight = torch.nn.Parameter(torch.zeros(10))
    weight.grad = torch.ones(10)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()  # makes the moments
    with Launches() as counted:
        optimizer.step()
    # weight, gradient and two moments are read, all but the gradient written, and a count of steps on both sides, twice
    assert (counted.operators, counted.moved) == (2, 4 * (10 * (4 + 4) + 1) + 4 * 2)


def test_a_deep_model_costs_what_few_of_its_blocks_say() -> None:
    deep = dataclasses.replace(SMALL, depth=9)
    for mode, left_alone in (("lora", 0), ("lora", 5), ("full", 0)):
        whole = trace_step(deep, 37, mode, left_alone=left_alone)
        assert traced_by_few(deep, 37, mode, left_alone=left_alone) == whole
