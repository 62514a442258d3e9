"""What to change when a GPU's memory did not suffice: said with the failure, by the formula that plan and the operator use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch

from mochi_api.prediction.admission import gibibytes
from mochi_api.prediction.fitting import changes_that_fit, fits, least_needed
from mochi_api.prediction.gpus import GPUS, MIB, RESERVED, Gpu
from mochi_api.prediction.work import Work, largest, works_of_run
from mochi_api.runfile import RunFile
from mochi_trainer import failures
from mochi_trainer.errors import OutOfMemoryError
from mochi_trainer.parallel import gradients, recompute, sharding

OF_A_GPU = ("cuda", "cudnn")
"""In what torch says when a GPU's memory ran out, not the pod's."""
LESS = 10
"""Where the formula says that it fits, and it did not, one part in so many less is asked for."""


@contextmanager
def memory_advised(run: RunFile) -> Iterator[None]:
    """Within the block, running out of the GPU's memory is an OutOfMemoryError whose action names changes that would fit."""
    try:
        yield
    except (RuntimeError, OutOfMemoryError) as error:
        ours = failures.translated(error)
        on_gpu = any(part in str(ours).lower() for part in OF_A_GPU) and torch.cuda.is_available()
        if isinstance(ours, OutOfMemoryError) and ours.action is None and on_gpu:
            _, total = torch.cuda.mem_get_info()
            sizes = works_of_run(run)
            ours.action = advice(largest(sizes), total, sizes, os.environ)
        if ours is error:
            raise
        raise ours from error


NOTHING_SAID: Mapping[str, str] = MappingProxyType({})


def advice(
    work: Work, total: int, sizes: Sequence[Work] = (), environ: Mapping[str, str] = NOTHING_SAID
) -> str:
    """What would fit into a GPU of `total` bytes, or which other would, in words; empty when nothing is known.

    `work` and `sizes` are as `changes_that_fit` has them, `environ` is what the training ran with.
    """
    need = least_needed(work)
    available = total - RESERVED
    usable = min(available, need - need // LESS)
    this = Gpu(product="this GPU", mebibytes=(usable + RESERVED) // MIB, teraflops=0)
    changes = (
        [f"{choice} in workers.env" for choice in _thriftier(work, environ)] if need <= available else []
    )
    changes += [change for change in changes_that_fit(work, this, sizes) if not change.startswith("a GPU")]
    larger = [gpu for gpu in GPUS.values() if gpu.mebibytes * MIB > total and fits(work, gpu)]
    if larger:
        changes.append(f"a GPU such as {larger[-1].product}")
    if not changes:
        return ""
    return f"predicted need {gibibytes(need)} GiB of {gibibytes(total)} GiB; use {', or '.join(changes)}"


def _thriftier(work: Work, environ: Mapping[str, str]) -> Iterator[str]:
    """What the training chose from the predicted memory, or was told to, and what needs less."""
    if work.full and work.pods not in {1, work.world} and environ.get(sharding.VARIABLE) != "1":
        yield f"{sharding.VARIABLE} 1"
    if work.full and work.world > 1 and work.share > 1 and environ.get(gradients.VARIABLE) != "0":
        yield f"{gradients.VARIABLE} 0"
    if not work.swapped and environ.get(recompute.VARIABLE) not in {"0", "1"}:
        yield f"{recompute.VARIABLE} 1"
