"""What fits where, how the room is used, and what is proposed where it is too small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mochi_api.prediction.fitting import (
    SPARE,
    changes_that_fit,
    fits,
    largest_policy,
    least_needed,
    needed,
    smallest_gpu,
)
from mochi_api.prediction.gpus import GPUS, RESERVED
from mochi_api.prediction.policies import LEAST, Policy
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.prediction.work import Work

LORA = Work(mode="lora", network=NETWORKS["mochi-1"], frames=37, width=848, height=480)
FULL = replace(LORA, mode="full", world=8)
H100 = GPUS["NVIDIA-H100-80GB-HBM3"]


@pytest.mark.parametrize(
    ("work", "frames", "smallest"),
    [
        (LORA, 7, "NVIDIA-GeForce-RTX-4090"),
        (LORA, 37, "NVIDIA-GeForce-RTX-5090"),
        (LORA, 85, "NVIDIA-A100-PCIE-40GB"),
        (LORA, 163, "NVIDIA-H100-PCIe"),
        (FULL, 37, "NVIDIA-GeForce-RTX-5090"),
        (FULL, 163, "NVIDIA-H100-PCIe"),
        (replace(FULL, world=1), 37, "NVIDIA-B200"),
    ],
    ids=lambda value: f"{value.mode}-{value.world}" if isinstance(value, Work) else str(value),
)
def test_the_smallest_gpu_that_fits(work: Work, frames: int, smallest: str) -> None:
    found = smallest_gpu(replace(work, frames=frames))
    assert found is not None
    assert found.product == smallest


@pytest.mark.parametrize("work", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("frames", [37, 85, 163])
def test_the_largest_policy_fits_and_one_more_block_would_not(work: Work, frames: int) -> None:
    work = replace(work, frames=frames)
    found = largest_policy(work, H100.available)
    assert found is not None
    assert 0 < found.left_alone < 48
    used = H100.available - H100.available // SPARE
    assert needed(work, found) <= used < needed(work, Policy(left_alone=found.left_alone + 1))


def test_every_block_is_left_alone_when_there_is_room_for_it() -> None:
    assert largest_policy(replace(LORA, frames=7), H100.available) == Policy(left_alone=48)


def test_no_policy_fits_where_the_least_does_not() -> None:
    assert largest_policy(LORA, least_needed(LORA) - 1) is None
    assert largest_policy(LORA, least_needed(LORA)) == LEAST


@pytest.mark.parametrize(
    ("work", "product", "changes"),
    [
        (
            replace(LORA, frames=85, rank=64),
            "NVIDIA-GeForce-RTX-5090",
            (
                "preprocessing.frames 49",
                "training.lora.baseWeights Int8",
                "training.lora.blocksToSwap 21",
                "a GPU such as NVIDIA-A100-PCIE-40GB",
            ),
        ),
        (
            replace(FULL, frames=163),
            "NVIDIA-L40S",
            (
                "preprocessing.frames 103",
                "training.contextParallel 2",
                "a GPU such as NVIDIA-H100-PCIe",
            ),
        ),
        (
            replace(FULL, frames=163, pods=8),
            "NVIDIA-L40S",
            ("preprocessing.frames 103", "a GPU such as NVIDIA-H100-PCIe"),
        ),
        (
            replace(FULL, world=2),
            "NVIDIA-H100-80GB-HBM3",
            ("3 GPUs (workers.replicas x gpusPerPod)", "a GPU such as NVIDIA-H100-NVL"),
        ),
    ],
    ids=["lora", "full", "full in pods of one GPU", "pods"],
)
def test_the_nearest_changes_that_would_fit(work: Work, product: str, changes: tuple[str, ...]) -> None:
    assert not fits(work, GPUS[product])
    assert changes_that_fit(work, GPUS[product]) == changes


def test_of_several_sizes_each_that_does_not_fit_is_named_where_the_spec_has_it() -> None:
    gpu = GPUS["NVIDIA-GeForce-RTX-5090"]
    own, small, long, middle = (
        replace(LORA, frames=frames, place=place)
        for frames, place in (
            (37, "preprocessing"),
            (7, "preprocessing.buckets[0]"),
            (85, "preprocessing.buckets[1]"),
            (79, "preprocessing.buckets[2]"),
        )
    )
    [alone, *_] = changes_that_fit(replace(long, place="preprocessing"), gpu)
    most = int(alone.removeprefix("preprocessing.frames "))
    assert changes_that_fit(long, gpu, (own, small, long))[0] == f"preprocessing.buckets[1].frames {most}"
    both, *_ = changes_that_fit(long, gpu, (own, small, long, middle))
    assert both == f"preprocessing.buckets[1].frames {most} and preprocessing.buckets[2].frames {most - 6}", (
        "two sizes that are one would be refused"
    )
    taken = replace(own, frames=most)
    assert changes_that_fit(long, gpu, (taken, long))[0] == f"preprocessing.buckets[1].frames {most - 6}"


def test_where_one_size_is_too_large_whatever_its_frames_fewer_are_no_advice() -> None:
    gpu = GPUS["NVIDIA-L4"]
    still = replace(FULL, frames=1, world=1, place="preprocessing.buckets[0]")
    assert not fits(still, gpu)
    assert not any("frames" in change for change in changes_that_fit(FULL, gpu, (FULL, still)))


def test_the_table_of_gpus_is_ordered_and_complete() -> None:
    assert list(GPUS) == [gpu.product for gpu in sorted(GPUS.values(), key=lambda gpu: -gpu.mebibytes)]
    assert all(gpu.available == gpu.mebibytes * 2**20 - RESERVED > 20e9 for gpu in GPUS.values())
