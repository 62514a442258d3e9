"""Seconds against the table derived for an H100, and bytes against what is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mochi_api.prediction import flops
from mochi_api.prediction.flops import Flops
from mochi_api.prediction.gpus import GPUS
from mochi_api.prediction.memory import swapped_block
from mochi_api.prediction.policies import LEAST, Policy
from mochi_api.prediction.seconds import (
    Efficiency,
    seconds,
    step_seconds,
    swapped_traffic,
    traffic,
    traffic_between_copies,
    traffic_of_tokens,
    training_seconds,
)
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.storage import Storage, storage
from mochi_api.prediction.work import Work
from mochi_api.spec import TrainingSpec

LORA = Work(mode="lora", network=NETWORKS["mochi-1"], frames=37, width=848, height=480)
FULL = replace(LORA, mode="full", world=8)
H100 = GPUS["NVIDIA-H100-80GB-HBM3"]
PARAMETERS = 10_027_677_744


@pytest.mark.parametrize(
    ("work", "frames", "expected"),
    [
        (LORA, 37, 1.18),
        (LORA, 61, 2.31),
        (LORA, 79, 3.38),
        (LORA, 85, 3.78),
        (LORA, 163, 10.9),
        (FULL, 37, 1.39),
        (FULL, 85, 4.23),
        (FULL, 163, 11.7),
    ],
    ids=lambda value: value.mode if isinstance(value, Work) else str(value),
)
def test_a_step_takes_what_was_derived_for_cudnn_with_attention_kept(
    work: Work, frames: int, expected: float
) -> None:
    assert step_seconds(replace(work, frames=frames), Policy(), H100) == pytest.approx(expected, rel=0.01)


def test_seconds_are_operations_over_speed_and_share() -> None:
    shares = Efficiency(matrices=0.5, attention_forward=0.25, attention_backward=0.125, rest=0.5)
    found = seconds(Flops(989_000_000_000_000, 989_000_000_000_000, 989_000_000_000_000), H100, shares)
    assert found == pytest.approx(1.5 * (2 + 4 + 8))


def trained(steps: int, **validation: int) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {"steps": steps, "checkpoint": {"everySteps": 200}, "validation": validation}
    )


def test_a_training_is_its_steps_and_its_evaluations() -> None:
    """Of 16 passes over 8 ranks, before the first step, at each checkpoint and after the last step."""
    step = step_seconds(FULL, Policy(), H100)
    forward = seconds(flops.forward(FULL), H100)
    assert 0.1 * step < forward < 0.4 * step
    plain = training_seconds(FULL, Policy(), H100, trained(400, clips=0))
    assert plain == pytest.approx(400 * step + 3 * 2 * forward)
    last = training_seconds(FULL, Policy(), H100, trained(401, clips=0))
    assert last == pytest.approx(401 * step + 4 * 2 * forward)


@pytest.mark.parametrize(
    ("validation", "passes"),
    [
        ({}, 3 * 4),
        ({"clips": 16}, 3 * 8),
        ({"clips": 6}, 3 * 3),
        ({"clips": 4}, 3 * 4),
        ({"clips": 3}, 3 * 3),
        ({"clips": 1}, 3 * 4),
        ({"clips": 4, "everySteps": 50}, 9 * 4),
        ({"clips": 4, "everySteps": 300}, 4 * 4),
    ],
)
def test_clips_that_are_held_out_are_evaluated_too(validation: dict[str, int], passes: int) -> None:
    """Eight, where nobody says how many, and at each checkpoint, whatever else is asked; few clips at more levels."""
    plain, ours = (
        training_seconds(FULL, Policy(), H100, trained(400, **each)) for each in ({"clips": 0}, validation)
    )
    assert ours - plain == pytest.approx(passes * seconds(flops.forward(FULL), H100))


def test_the_best_checkpoint_is_kept_besides() -> None:
    plain, best = (storage(LORA, keep_last=2, merged=False, best=each).checkpoints for each in (False, True))
    assert 3 * best == 4 * plain


def test_traffic_is_eight_bytes_of_each_parameter_that_others_hold() -> None:
    assert traffic(FULL) == 8 * PARAMETERS * 7 // 8
    assert traffic(LORA) == 0
    assert traffic_between_copies(FULL) == 0


def test_with_a_copy_in_each_pod_only_sums_of_gradients_cross_the_network() -> None:
    two = replace(FULL, world=16, copies=2)
    assert traffic_between_copies(two) == 2 * 4 * (PARAMETERS // 8) // 2
    assert traffic(two) == traffic(FULL) + traffic_between_copies(two)


def test_gpus_that_share_a_clip_receive_the_others_tokens_three_times() -> None:
    two = replace(FULL, context=2)
    assert traffic_of_tokens(FULL) == 0
    others = (4 * two.own_tokens + two.text_tokens) * 3072 // 2
    assert traffic_of_tokens(two) == 3 * 48 * 2 * others
    assert traffic_of_tokens(replace(two, share=3)) == 3 * traffic_of_tokens(two)


def test_blocks_that_wait_are_copied_forward_and_backward_but_for_two() -> None:
    gpu, block = GPUS["NVIDIA-GeForce-RTX-4090"], swapped_block(LORA)
    waiting = replace(LORA, swapped=22)
    assert swapped_traffic(waiting) == 40 * block
    assert swapped_traffic(replace(LORA, swapped=2)) == swapped_traffic(LORA) == 0
    assert step_seconds(waiting, LEAST, gpu) == step_seconds(LORA, LEAST, gpu)  # hidden behind the work
    assert step_seconds(waiting, LEAST, gpu._replace(teraflops=1e6)) == pytest.approx(40 * block / 20e9)


def test_pinned_memory_for_them_comes_in_powers_of_two() -> None:
    assert storage(replace(LORA, swapped=10), keep_last=1, merged=False).swapped == 10 * 2**29
    assert storage(replace(LORA, swapped=10, narrow=True), keep_last=1, merged=False).swapped == 10 * 2**28
    assert 2**27 < swapped_block(replace(LORA, narrow=True)) < 2**28


def test_a_full_run_writes_three_numbers_of_each_parameter() -> None:
    whole = 2 * PARAMETERS
    assert storage(FULL, keep_last=3, merged=False) == Storage(
        checkpoint=12 * PARAMETERS,
        checkpoints=48 * PARAMETERS,
        artifacts=2 * whole,
        disk=whole + 10_000_000_000,
        copy=12 * PARAMETERS // 8,
        swapped=0,
    )
    assert storage(replace(FULL, world=16, copies=2), keep_last=3, merged=False).copy == 12 * PARAMETERS // 8


def test_an_average_is_a_fourth_number_and_one_more_file() -> None:
    found = storage(replace(FULL, averaged=True), keep_last=3, merged=False)
    assert (found.checkpoint, found.copy) == (16 * PARAMETERS, 16 * PARAMETERS // 8)
    assert found.artifacts == 6 * PARAMETERS
    assert found.disk == storage(FULL, keep_last=3, merged=False).disk


def test_a_lora_writes_its_matrices_for_diffusers_and_fused_for_comfyui() -> None:
    adapters = 48 * 2 * 16 * 6144
    fused = 48 * 32 * (3072 + 9216)
    found = storage(LORA, keep_last=2, merged=False)
    assert (found.checkpoint, found.artifacts) == (12 * adapters, 4 * (adapters + fused))
    merged = storage(LORA, keep_last=2, merged=True)
    assert merged.artifacts - found.artifacts == 2 * PARAMETERS
