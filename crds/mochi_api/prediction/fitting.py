"""Whether a training fits into a GPU, how it uses the room that is left, and what would fit where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mochi_api.prediction.gpus import GIB, GPUS, Gpu
from mochi_api.prediction.memory import memory
from mochi_api.prediction.policies import LEAST, Policy
from mochi_api.prediction.work import Work

FRAGMENTS = 50
"""One part in so many of the tensors' memory is lost between them."""
SPARE = 20
"""One part in so many of the free memory is not filled with what could be computed again: no GPU has confirmed the formula yet."""
COMMUNICATION = GIB
"""Buffers of NCCL, with several GPUs."""
MOST_PODS = 64
LEAST_FRAMES = 7


def needed(work: Work, policy: Policy) -> int:
    """Bytes that a GPU must have free: the tensors at their peak, what is lost between them, and NCCL's buffers."""
    peak = memory(work, policy).peak
    return peak + peak // FRAGMENTS + (COMMUNICATION if work.world > 1 else 0)


def least_needed(work: Work) -> int:
    """What is needed when all blocks but the last are computed again, but for their attention."""
    return needed(work, LEAST)


def largest_policy(work: Work, available: int) -> Policy | None:
    """The policy that leaves most blocks alone in `available` bytes, but for a spare part of them.

    None when the training does not fit at all: what it needs at least may take the spare part too. Blocks that are swapped are
    computed again, so none is left alone then but the last.
    """
    if least_needed(work) > available:
        return None
    if work.swapped:
        return LEAST
    used = available - available // SPARE
    low, high = LEAST.left_alone, work.network.depth
    while low < high:
        middle = (low + high + 1) // 2
        if needed(work, Policy(left_alone=middle)) <= used:
            low = middle
        else:
            high = middle - 1
    return Policy(left_alone=low)


def copies_in_room(work: Work, available: int) -> int:
    """Copies of the weights of mode full for which `available` bytes of each GPU, but for a spare part, are enough.

    One in each pod: then weights are gathered inside the pods, and gradients alone cross the network. Else one over all ranks,
    which needs least memory.
    """
    if not work.full or work.pods in {1, work.world}:
        return 1
    used = available - available // SPARE
    return work.pods if least_needed(replace(work, copies=work.pods)) <= used else 1


def once_in_room(work: Work, available: int) -> bool:
    """Whether `available` bytes of each GPU, but for a spare part, are enough to sum gradients over the ranks once a step.

    Of mode full with several clips on a rank: it keeps the whole gradient until the last, 4 bytes a parameter.
    """
    if not work.full or work.share == 1 or work.world == 1:
        return False
    used = available - available // SPARE
    return least_needed(replace(work, synchronise_once=True)) <= used


def fits(work: Work, gpu: Gpu) -> bool:
    """Whether `gpu` has the memory."""
    return least_needed(work) <= gpu.available


def smallest_gpu(work: Work) -> Gpu | None:
    """The known product with the least memory that has enough; None when none has."""
    return next((gpu for gpu in reversed(list(GPUS.values())) if fits(work, gpu)), None)


def changes_that_fit(work: Work, gpu: Gpu, sizes: Sequence[Work] = ()) -> tuple[str, ...]:
    """Single changes of the spec with which the training would fit into `gpu`, or into another, in words.

    `work` is that of the largest size of the clips, `sizes` those of all where there are several: shorter clips are one
    change of each size that does not fit.
    """
    return tuple(_changes(work, gpu, sizes or (work,)))


def _shorter(sizes: Sequence[Work], gpu: Gpu) -> str:
    """The most frames with which each size fits, in words; empty where fewer frames do not help. No two sizes become one."""
    taken = {_size(work) for work in sizes if fits(work, gpu)}
    words = []
    for work in (work for work in sizes if not fits(work, gpu)):
        fewer = (replace(work, frames=frames) for frames in range(work.frames - 6, LEAST_FRAMES - 1, -6))
        found = next((short for short in fewer if fits(short, gpu) and _size(short) not in taken), None)
        if found is None:
            return ""
        taken.add(_size(found))
        words.append(f"{work.place}.frames {found.frames}")
    return " and ".join(words)


def _size(work: Work) -> tuple[int, int, int]:
    return work.frames, work.width, work.height


def _sharing_clips(work: Work) -> Iterator[Work]:
    """The same with more ranks of a pod that share each clip, and so more clips of a step on each."""
    gpus = work.world // work.pods
    for context in range(work.context + 1, gpus + 1):
        if gpus % context == 0 and work.network.heads % context == 0:
            yield replace(work, context=context, share=-(-work.share * context // work.context))


def _changes(work: Work, gpu: Gpu, sizes: Sequence[Work]) -> Iterator[str]:
    shorter = _shorter(sizes, gpu)
    if shorter:
        yield shorter
    shared = next((work_ for work_ in _sharing_clips(work) if fits(work_, gpu)), None)
    if shared is not None:
        yield f"training.contextParallel {shared.context}"
    more = range(work.world + work.context, MOST_PODS + 1, work.context) if work.full else ()
    pods = next((count for count in more if fits(replace(work, world=count), gpu)), None)
    if pods is not None:
        yield f"{pods} GPUs (workers.replicas x gpusPerPod)"
    ranks = (rank for rank in (128, 64, 32, 16, 8, 4) if not work.full and rank < work.rank)
    rank = next((rank for rank in ranks if fits(replace(work, rank=rank), gpu)), None)
    if rank is not None:
        yield f"training.lora.rank {rank}"
    if not work.full and not work.narrow and fits(replace(work, narrow=True), gpu):
        yield "training.lora.baseWeights Int8"
    counts = range(work.swapped + 1, work.network.depth) if not work.full else ()
    count = next((count for count in counts if fits(replace(work, swapped=count), gpu)), None)
    if count is not None:
        yield f"training.lora.blocksToSwap {count}"
    larger = smallest_gpu(work)
    if larger is not None:
        yield f"a GPU such as {larger.product}"
