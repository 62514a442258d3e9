"""The formulas of `mochi_api.prediction` against the real step, traced without memory, in the published widths.

Few blocks are the harder test: weights, of which nothing can be wrong, are most of the memory of 48. All 48, in twenty
trainings, are `tests/bench/prediction.py`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mochi_api.prediction import flops
from mochi_api.prediction.memory import memory
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.sizes import TARGET_LAYERS, Network
from mochi_api.prediction.work import Work
from mochi_trainer.lora import LoraParams
from mochi_trainer.model import DiTParams
from mochi_trainer.plan import trace_step

DEPTH = 4
LORA = Work(mode="lora", network=Network(depth=DEPTH), frames=37, width=848, height=480)
FULL = replace(LORA, mode="full", world=8)
SMALL = replace(LORA, width=320, height=192, frames=7)
ATTENTION = ("query", "key", "value", "output")


@pytest.mark.parametrize(
    ("work", "left_alone"),
    [
        pytest.param(LORA, 0, id="lora"),
        pytest.param(replace(LORA, frames=85, rank=64, targets=ATTENTION), 2, id="lora of attention"),
        pytest.param(replace(LORA, targets=("mlp_in",)), DEPTH - 1, id="lora of the MLP"),
        pytest.param(
            replace(LORA, targets=tuple(TARGET_LAYERS), rank=128, dropout=True), 1, id="lora of all, dropout"
        ),
        pytest.param(
            replace(
                LORA, width=64, height=64, frames=7, share=2, text=40, targets=("output", "text_mlp_out")
            ),
            0,
            id="lora of a small clip",
        ),
        pytest.param(replace(LORA, swapped=3), 1, id="lora with blocks that wait"),
        pytest.param(replace(LORA, swapped=3, narrow=True), 1, id="lora with narrow blocks that wait"),
        pytest.param(replace(SMALL, swapped=1, narrow=True), 1, id="lora with one narrow block that waits"),
        pytest.param(
            replace(SMALL, targets=tuple(TARGET_LAYERS), rank=256),
            DEPTH,
            id="lora of high rank, small clip, all left alone",
        ),
        pytest.param(
            replace(SMALL, targets=tuple(TARGET_LAYERS), rank=256, world=2),
            0,
            id="lora of high rank on two GPUs",
        ),
        pytest.param(
            replace(SMALL, targets=tuple(TARGET_LAYERS), rank=64, world=8, context=4, share=3),
            1,
            id="lora of high rank, several clips, each on four",
        ),
        pytest.param(replace(SMALL, narrow=True), 0, id="narrow lora of a small clip"),
        pytest.param(
            replace(SMALL, narrow=True, text=0), DEPTH, id="narrow lora of a small clip without words"
        ),
        pytest.param(replace(SMALL, narrow=True, frames=37), 1, id="narrow lora of a longer small clip"),
        pytest.param(FULL, 0, id="full"),
        pytest.param(replace(FULL, frames=85, share=2), 2, id="full, two clips"),
        pytest.param(replace(FULL, share=2, synchronise_once=True), 0, id="full, two clips summed once"),
        pytest.param(
            replace(FULL, frames=85, share=3, synchronise_once=True), 2, id="full, three clips summed once"
        ),
        pytest.param(
            replace(FULL, width=128, height=128, world=16, copies=2, share=3, synchronise_once=True),
            0,
            id="full, two copies, three small clips summed once",
        ),
        pytest.param(replace(FULL, averaged=True), 0, id="full, averaged"),
        pytest.param(replace(FULL, width=128, height=128, world=16), 0, id="full of a small clip"),
        pytest.param(replace(FULL, world=16, copies=2), 1, id="full, two copies"),
        pytest.param(replace(FULL, copies=2, share=2), 0, id="full, two copies, two clips"),
        pytest.param(replace(FULL, frames=85, context=2), 2, id="full, a clip on two"),
        pytest.param(
            replace(FULL, world=32, copies=4, context=8), 0, id="full, four copies, a clip on eight"
        ),
        pytest.param(
            replace(LORA, world=4, context=4, targets=("query", "output")), 1, id="lora, a clip on four"
        ),
    ],
)
def test_peak_and_operations_are_as_predicted(work: Work, left_alone: int) -> None:
    traced = trace_step(
        DiTParams(depth=DEPTH),
        work.frames,
        work.mode,
        world=work.world,
        left_alone=left_alone,
        height=work.height,
        width=work.width,
        text_tokens=work.text_tokens,
        lora=LoraParams(rank=work.rank, alpha=16, targets=work.targets, dropout=0.1 if work.dropout else 0.0),
        clips=work.share,
        base=torch.int8 if work.narrow else None,
        swapped=work.swapped,
        averaged=work.averaged,
        copies=work.copies,
        synchronise_once=work.synchronise_once,
        context=work.context,
    )
    policy = Policy(left_alone=left_alone)
    assert -0.01 <= memory(work, policy).peak / traced.peak_bytes - 1 <= 0.03
    assert flops.step(work, policy).total == pytest.approx(traced.flops, rel=0.001)
