"""Seconds of a step, from its operations and from the share of a GPU's speed that each kind of them reaches.

The shares are an assumption: matrix products at 620 of an H100's 989 TFLOP/s, cuDNN's attention at 595 forward and 516
backward, fused norms and rotations at 8 percent on top. Traffic between GPUs is taken to be hidden behind the work, which
NVLink allows and a slow network does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from mochi_api.prediction import flops
from mochi_api.prediction.activations import COMPUTE
from mochi_api.prediction.flops import Flops
from mochi_api.prediction.gpus import Gpu
from mochi_api.prediction.memory import ROOMS, swapped_block
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.work import Work
from mochi_api.resolved import LEAST_LEVELS, levels_a_clip, usually_held_out
from mochi_api.spec import TrainingSpec

HOST_BYTES_A_SECOND = 20e9
"""From pinned memory over PCIe 4.0 x16, of 32 GB/s that it has."""
FIXED_CASES = 4 * LEAST_LEVELS
"""Forward passes of an evaluation of the fixed batch, shared by the ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """Shares of a GPU's speed, and what is neither matrix product nor attention."""

    matrices: float = 0.627
    attention_forward: float = 0.60
    attention_backward: float = 0.52
    rest: float = 0.08
    """Of the time of the others."""


USUAL = Efficiency()


def seconds(work: Flops, gpu: Gpu, efficiency: Efficiency = USUAL) -> float:
    """How long `gpu` computes."""
    speed = gpu.teraflops * 1e12
    products = (
        work.matrices / efficiency.matrices
        + work.attention_forward / efficiency.attention_forward
        + work.attention_backward / efficiency.attention_backward
    )
    return products / speed * (1 + efficiency.rest)


def step_seconds(work: Work, policy: Policy, gpu: Gpu, efficiency: Efficiency = USUAL) -> float:
    """One optimizer step; with blocks that are swapped as long as their copies, where these take longer."""
    copied = work.share * swapped_traffic(work) / HOST_BYTES_A_SECOND
    return max(seconds(flops.step(work, policy), gpu, efficiency), copied)


def training_seconds(
    work: Work, policy: Policy, gpu: Gpu, training: TrainingSpec, efficiency: Efficiency = USUAL
) -> float:
    """All steps, and the evaluations before the first and at each checkpoint; nothing of what comes before and after.

    Where the spec does not say how many clips are held out it is taken to be as many as it can be.
    """
    steps, saved = training.steps, training.checkpoint.every_steps
    clips = usually_held_out(training)
    held_out = clips * levels_a_clip(clips)
    evaluated = _moments(steps, saved, training.validation.every_steps or saved)
    passes = _moments(steps, saved, saved) * _own(work, FIXED_CASES) + evaluated * _own(work, held_out)
    evaluations = seconds(flops.forward(work).times(passes), gpu, efficiency)
    return steps * step_seconds(work, policy, gpu, efficiency) + evaluations


def _moments(steps: int, every: int, other: int) -> int:
    """Before the first step, after the last, and after each multiple of either number between them."""
    before = steps - 1
    return 2 + before // every + before // other - before // lcm(every, other)


def _own(work: Work, cases: int) -> int:
    """Of so many forward passes those of one rank; ranks that share a clip make each together."""
    return -(-cases * work.context // work.world)


def swapped_traffic(work: Work) -> int:
    """Bytes that a GPU copies from host memory for each clip: each block that waits once forward and once backward."""
    return 2 * max(0, work.swapped - ROOMS) * swapped_block(work)


def traffic(work: Work) -> int:
    """Bytes that each GPU receives in a step: all weights twice in bfloat16 with each clip, and its gradients in float32.

    These with each clip too, unless they are summed over the ranks once. With several copies the ranks of one exchange these, and `traffic_between_copies` comes on top. The adapters' gradients of
    mode lora, over several GPUs, are next to nothing.
    """
    if not work.full:
        return 0
    each = 4 * work.share + 4 * _sums(work)
    inside = work.network.parameters * each * (work.parts - 1) // work.parts
    return inside + traffic_between_copies(work)


def traffic_of_tokens(work: Work) -> int:
    """Bytes that each GPU receives in a step from those that share its clips, when all blocks are computed again.

    In each block queries, keys, values and outputs of their tokens or heads, in bfloat16: forward, again, and backward.
    """
    rows = 4 * work.own_tokens + work.text_tokens
    passes = 3 * work.network.depth * work.share
    return passes * COMPUTE * rows * work.network.width * (work.context - 1) // work.context


def traffic_between_copies(work: Work) -> int:
    """Of it what comes from other copies: the sums of this rank's gradients, in float32, each number twice but for its own."""
    if not work.full:
        return 0
    part = work.network.parameters // work.parts
    return part * 8 * _sums(work) * (work.copies - 1) // work.copies


def _sums(work: Work) -> int:
    """How often a step sums its gradients over the ranks."""
    return 1 if work.synchronise_once else work.share
