"""Memory of a step against what was traced of it, against the bounds that were set, and against its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mochi_api.prediction.memory import all_trained, memory
from mochi_api.prediction.policies import LEAST, WHOLE_BLOCKS, Policy
from mochi_api.prediction.sizes import NETWORKS, TARGET_LAYERS
from mochi_api.prediction.work import Work

KEPT = Policy()
LORA = Work(mode="lora", network=NETWORKS["mochi-1"], frames=37, width=848, height=480)
FULL = replace(LORA, mode="full", world=8)


@pytest.mark.parametrize(
    ("work", "left_alone", "gigabytes"),
    [(LORA, 0, 29.45), (FULL, 0, 27.60), (replace(FULL, frames=85), 7, 76.16)],
    ids=["lora", "full", "full, longer"],
)
def test_the_peak_is_what_was_traced_of_the_whole_model(
    work: Work, left_alone: int, gigabytes: float
) -> None:
    """`python tests/bench/prediction.py` traces these, and more."""
    assert memory(work, Policy(left_alone=left_alone)).peak / 1e9 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.parametrize(
    ("work", "frames", "at_most"),
    [
        (LORA, 37, 34),
        (LORA, 61, 39),
        (LORA, 79, 44),
        (LORA, 85, 45),
        (LORA, 163, 62),
        (FULL, 85, 48),
        (FULL, 163, 62),
    ],
    ids=lambda value: value.mode if isinstance(value, Work) else str(value),
)
def test_the_peak_stays_under_the_bounds(work: Work, frames: int, at_most: int) -> None:
    assert memory(replace(work, frames=frames), KEPT).peak / 1e9 <= at_most


def test_what_mode_full_holds_of_each_parameter_is_sixteen_bytes_over_all_ranks() -> None:
    found = memory(replace(FULL, share=2), KEPT)
    assert found.weights + found.moments + found.gradients == 16 * -(-10_027_677_744 // 8)


def test_an_average_is_four_bytes_of_each_parameter_over_all_ranks() -> None:
    without, found = (memory(replace(FULL, averaged=averaged), KEPT) for averaged in (False, True))
    assert found.average == found.peak - without.peak == 4 * -(-10_027_677_744 // 8)


def test_mode_lora_holds_the_base_in_bfloat16_and_twelve_bytes_of_each_adapter() -> None:
    found, adapters = memory(LORA, KEPT), all_trained(LORA)
    assert adapters == 48 * 2 * 16 * (3072 + 3072)
    assert found.weights + found.moments == 2 * 10_027_677_744 + 12 * adapters


@pytest.mark.parametrize("work", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("frames", [7, 37, 85, 163])
def test_the_more_is_kept_the_more_memory_is_needed(work: Work, frames: int) -> None:
    work = replace(work, frames=frames)
    policies = [WHOLE_BLOCKS, *(Policy(left_alone=count) for count in (0, 2, 5, 20, 48))]
    peaks = [memory(work, policy).peak for policy in policies]
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("work", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("frames", [7, 37, 85, 163])
def test_the_last_block_left_alone_costs_nothing(work: Work, frames: int) -> None:
    """Its activations are the first to go, and would be there anyway when they are computed again."""
    work = replace(work, frames=frames)
    assert memory(work, LEAST).peak <= memory(work, KEPT).peak


@pytest.mark.parametrize(
    "larger",
    [
        {"frames": 43},
        {"height": 496},
        {"rank": 64},
        {"targets": ("query", "key", "value")},
        {"targets": tuple(TARGET_LAYERS)},
        {"share": 2},
    ],
    ids=lambda change: "-".join(change),
)
def test_more_work_needs_no_less_memory(larger: dict) -> None:
    for policy in (WHOLE_BLOCKS, KEPT, Policy(left_alone=10)):
        assert memory(replace(LORA, **larger), policy).peak >= memory(LORA, policy).peak


def test_more_ranks_need_less_memory_each() -> None:
    peaks = [memory(replace(FULL, world=world), KEPT).peak for world in (1, 2, 4, 8, 16, 64)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] - peaks[1] == pytest.approx(8 * 10_027_677_744, rel=0.3)
