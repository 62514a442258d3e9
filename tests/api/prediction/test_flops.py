"""Operations against their closed form, and against the table that was derived by hand for 480 x 848 pixels.

N visual and L text tokens, S = N + L; D = 3072, E = 1536, K = 4096; hidden widths 8192 and 4096.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from mochi_api.prediction import flops
from mochi_api.prediction.policies import WHOLE_BLOCKS, Policy
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work

KEPT, NOTHING_TWICE = Policy(), Policy(left_alone=48)
FRAMES = (37, 61, 79, 85, 163)


def work(frames: int, mode: str = "lora", **other) -> Work:
    return Work(mode=mode, network=NETWORKS["mochi-1"], frames=frames, width=848, height=480, **other)


def closed_form(frames: int) -> tuple[int, int]:
    """L and A of a forward pass without adapters: every layer's weights, twice for each row."""
    n, text = ((frames - 1) // 6 + 1) * 1590, 256
    visual = 48 * (4 * 3072**2 + 3 * 3072 * 8192) + 2 * 48 * 3072
    words = 48 * 3 * 1536 * 3072 + 47 * (3072 * 1536 + 3 * 1536 * 4096) + 4096 * 1536 + 2 * 4096**2
    once = 48 * 4 * 3072**2 + (47 * 4 + 1) * 3072 * 1536 + 256 * 3072 + 3072**2
    once += 4096**2 + 4096 * 3072 + 2 * 3072**2
    return 2 * (n * visual + text * words + once), 48 * 4 * (n + text) ** 2 * 3072


@pytest.mark.parametrize("frames", FRAMES)
def test_a_forward_pass_costs_its_closed_form(frames: int) -> None:
    matrices, attention = closed_form(frames)
    assert flops.forward(work(frames, "full")) == flops.Flops(matrices, attention, 0)


@pytest.mark.parametrize(
    ("frames", "matrices", "attention"),
    [(37, 121.9, 76.5), (61, 191.1, 185.7), (79, 243.0, 299.0), (85, 260.2, 342.7), (163, 485.0, 1182.5)],
)
def test_a_forward_pass_is_that_of_the_table(frames: int, matrices: float, attention: float) -> None:
    found = flops.forward(work(frames, "full"))
    assert found.matrices / 1e12 == pytest.approx(matrices, rel=0.002)
    assert found.attention_forward / 1e12 == pytest.approx(attention, abs=0.05)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize(
    ("policy", "linears", "scores"),
    [(NOTHING_TWICE, 3, 3.5), (KEPT, 4, 3.5), (WHOLE_BLOCKS, 4, 4.5)],
    ids=["nothing twice", "attention kept", "whole blocks"],
)
def test_a_step_of_mode_full_costs_so_many_forward_passes(
    frames: int, policy: Policy, linears: int, scores: float
) -> None:
    matrices, attention = closed_form(frames)
    found = flops.step(work(frames, "full", world=8), policy).total
    assert found == pytest.approx(linears * matrices + scores * attention, rel=0.001)


@pytest.mark.parametrize(
    ("frames", "mode", "policy", "petaflop"),
    [
        (37, "full", NOTHING_TWICE, 0.63),
        (37, "full", KEPT, 0.76),
        (37, "full", WHOLE_BLOCKS, 0.83),
        (37, "lora", NOTHING_TWICE, 0.51),
        (37, "lora", KEPT, 0.63),
        (37, "lora", WHOLE_BLOCKS, 0.71),
        (61, "full", KEPT, 1.41),
        (61, "lora", KEPT, 1.22),
        (79, "full", KEPT, 2.02),
        (79, "lora", KEPT, 1.78),
        (85, "full", NOTHING_TWICE, 1.98),
        (85, "full", KEPT, 2.24),
        (85, "full", WHOLE_BLOCKS, 2.58),
        (85, "lora", NOTHING_TWICE, 1.72),
        (85, "lora", KEPT, 1.98),
        (85, "lora", WHOLE_BLOCKS, 2.32),
        (163, "full", NOTHING_TWICE, 5.59),
        (163, "full", KEPT, 6.08),
        (163, "full", WHOLE_BLOCKS, 7.26),
        (163, "lora", NOTHING_TWICE, 5.11),
        (163, "lora", KEPT, 5.59),
        (163, "lora", WHOLE_BLOCKS, 6.78),
    ],
)
def test_a_step_is_that_of_the_table(frames: int, mode: str, policy: Policy, petaflop: float) -> None:
    """The table has two decimals, and leaves out adapters and text of mode lora."""
    assert flops.step(work(frames, mode), policy).total / 1e15 == pytest.approx(petaflop, abs=0.011)


def test_every_clip_of_a_step_costs_the_same() -> None:
    one, three = (flops.step(work(37, share=share), KEPT).total for share in (1, 3))
    assert three == 3 * one


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_block_that_is_left_alone_saves_its_matrices_once(mode: str) -> None:
    base = work(37, mode)
    for count in (1, 20, 48):
        saved = flops.step(base, KEPT).total - flops.step(base, Policy(left_alone=count)).total
        last = [flops.block_forward(base, index).matrices for index in range(48 - count, 48)]
        assert saved == sum(last)


def test_what_is_useful_counts_nothing_twice() -> None:
    matrices, attention = closed_form(85)
    assert flops.useful(work(85, "full")) == 3 * matrices + 3 * attention
    adapters = flops.forward(work(85)).matrices - matrices
    assert flops.useful(work(85)) == 2 * (matrices + adapters) + 3 * attention


def test_adapters_cost_in_proportion_to_their_rank() -> None:
    base = work(37)
    matrices, _ = closed_form(37)
    by_rank = [flops.forward(replace(base, rank=rank)).matrices - matrices for rank in (1, 64)]
    assert by_rank[1] == 64 * by_rank[0] > 0
