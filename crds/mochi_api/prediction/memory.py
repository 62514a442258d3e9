"""Memory of a GPU during a step, by what it is for, at the moment when it is largest.

That moment is looked for at the start of every block's backward pass, when all that was kept up to it is still there,
and at its end, when its gradients are; with adapters on several ranks also where their gradients are averaged. With mode full the weights, their average, gradients and moments are in equal parts on
all ranks, or on those of one copy (FSDP2), and the whole weights of two blocks and the gradients of a third are there besides;
all gradients are whole where they are summed once over the ranks for several clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from mochi_api.prediction import activations
from mochi_api.prediction.activations import COMPUTE, WIDE
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.sizes import adapted
from mochi_api.prediction.work import Work

NARROW = 1
"""Bytes of a number that is kept narrow."""
ROOMS = 2
"""Blocks whose matrices have room in the GPU while the others that are swapped wait; a test compares it with the trainer's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one GPU when most are in use."""

    weights: int
    """The base, and the adapters' masters in float32; or this rank's part of the float32 masters."""
    moments: int
    """Both of AdamW, float32."""
    average: int
    """The moving average of the trained weights, float32; nothing without one."""
    gradients: int
    """Those there at that moment, float32."""
    kept: int
    """Activations of the forward pass, as the policy keeps them."""
    working: int
    """The block at hand: what is computed again, and what its backward pass needs."""
    gathered: int
    """Whole weights of blocks, and gradients on their way to the other ranks; with mode lora these at the end of a step only."""
    inputs: int
    """The clip, its noise and its caption."""

    @property
    def peak(self) -> int:
        """All of it."""
        return (
            self.weights
            + self.moments
            + self.average
            + self.gradients
            + self.kept
            + self.working
            + self.gathered
            + self.inputs
        )


def memory(work: Work, policy: Policy) -> Memory:
    """The largest of all moments of a step."""
    kept = list(accumulate(_kept(work, policy, index) for index in range(work.network.depth)))
    moments = [
        moment
        for index in range(work.network.depth)
        for moment in (_at_start(work, policy, index, kept), _at_end(work, index, kept))
    ]
    if not work.full and work.world > 1:
        moments.append(_averaging(work))
    return max(moments, key=lambda found: found.peak)


def trained_parameters(work: Work, index: int) -> int:
    """Parameters of a block that training changes, over all ranks."""
    return _trained(work, work.network.like(index))


@lru_cache(maxsize=64)
def all_trained(work: Work) -> int:
    """Parameters that training changes, over all ranks."""
    if work.full:
        return work.network.parameters
    return sum(trained_parameters(work, index) for index in range(work.network.depth))


def swapped_block(work: Work) -> int:
    """Bytes of the matrices of a block that waits in host memory; the last block, which is smaller, never does."""
    each = NARROW if work.narrow else COMPUTE
    return each * sum(layer.weights for layer in work.network.layers(0))


@lru_cache(maxsize=256)
def _trained(work: Work, index: int) -> int:
    if work.full:
        return work.network.block_parameters(index)
    parts = adapted(work.network, index, work.targets)
    return sum(work.rank * (part.inputs + part.outputs) for part in parts)


def _at_start(work: Work, policy: Policy, index: int, kept: list[int]) -> Memory:
    again = 0 if _alone(work, policy, index) else activations.saved(work, index)
    if again and policy.keep_attention:
        again -= activations.attention_kept(work)
    turned = activations.rotation_gradient(work) if index + 1 < work.network.depth else 0
    working = again + turned + activations.temporaries(work, index)
    return _moment(work, index, kept=kept[index], working=working, own=0)


def _at_end(work: Work, index: int, kept: list[int]) -> Memory:
    own = COMPUTE * work.network.block_parameters(index) if work.full else 0
    return _moment(work, index, kept=kept[index - 1] if index else 0, working=0, own=own)


def _averaging(work: Work) -> Memory:
    """All gradients of the adapters once more, in the one piece in which they are averaged over the ranks."""
    found = _moment(work, -1, kept=0, working=0, own=0)
    return replace(found, gathered=WIDE * all_trained(work))


def _moment(work: Work, index: int, *, kept: int, working: int, own: int) -> Memory:
    trained = all_trained(work)
    base = 0 if work.full else _base(work)
    tokens = work.visual_tokens * work.network.channels * work.network.patch**2
    return Memory(
        weights=base + WIDE * _part(work, trained),
        moments=2 * WIDE * _part(work, trained),
        average=WIDE * _part(work, trained) if work.averaged else 0,
        gradients=WIDE * _gradients(work, index),
        kept=kept + activations.rotation(work),
        working=working,
        gathered=_gathered(work, index) + own,
        inputs=WIDE * (2 * tokens + work.text_tokens * work.network.feature_width),
    )


def _gradients(work: Work, index: int) -> int:
    """Numbers of the gradients there at block `index`: of several clips those of all blocks, from the second one on.

    With several copies FSDP2 keeps what it last summed over them to the end of the backward pass. What is summed over the ranks
    with the last clip only is whole until then, when most is needed.
    """
    complete = _after(work, index)
    if work.share == 1:
        return _part(work, complete)
    if work.synchronise_once:
        return all_trained(work) - complete + _part(work, complete)
    return _part(work, all_trained(work) + (complete if work.copies > 1 else 0))


@lru_cache(maxsize=64)
def _base(work: Work) -> int:
    """The frozen weights, in the compute type; of the blocks' matrices the narrow ones and their scales, and none that waits."""
    network = work.network
    whole = COMPUTE * network.parameters - max(0, work.swapped - ROOMS) * swapped_block(work)
    if not work.narrow:
        return whole
    layers = [layer for index in range(network.depth) for layer in network.layers(index)]
    return whole - sum((COMPUTE - NARROW) * layer.weights - WIDE * layer.outputs for layer in layers)


def _kept(work: Work, policy: Policy, index: int) -> int:
    if _alone(work, policy, index):
        return activations.saved(work, index)
    attention = activations.attention_kept(work) if policy.keep_attention else 0
    return activations.block_input(work) + attention


def _alone(work: Work, policy: Policy, index: int) -> bool:
    return index >= work.network.depth - policy.left_alone


@lru_cache(maxsize=4096)
def _after(work: Work, index: int) -> int:
    """Parameters whose gradients are complete when the backward pass reaches block `index`."""
    return sum(trained_parameters(work, later) for later in range(index + 1, work.network.depth))


def _part(work: Work, parameters: int) -> int:
    """This rank's, where they are in parts: the rows of each matrix hardly ever leave a remainder."""
    return -(-parameters // work.parts) if work.full else parameters


def _gathered(work: Work, index: int) -> int:
    """In the compute type the ends, this block and the one fetched ahead; in float32 the gradients of the one before."""
    if not work.full:
        return 0
    network = work.network
    whole = network.end_parameters + network.block_parameters(index)
    ahead = network.block_parameters(index - 1) if index else 0
    sent = network.block_parameters(index + 1) if index + 1 < network.depth else 0
    final = sum(layer.parameters for layer in network.ends if layer.name.startswith("final_layer"))
    return COMPUTE * (whole + ahead) + WIDE * (sent + final)
