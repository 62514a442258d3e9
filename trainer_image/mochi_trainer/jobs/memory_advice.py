"""What to change when a GPU's memory did not suffice: said with the failure, by the formula that plan and the operator use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from mochi_api.prediction.admission import gibibytes
from mochi_api.prediction.fitting import changes_that_fit, fits, least_needed
from mochi_api.prediction.gpus import GPUS, MIB, RESERVED, Gpu
from mochi_api.prediction.work import Work, largest, works_of_run
from mochi_api.runfile import RunFile
from mochi_trainer import failures
from mochi_trainer.errors import OutOfMemoryError
from mochi_trainer.parallel.recompute import VARIABLE

LESS = 10
"""Where the formula says that it fits, and it did not, one part in so many less is asked for."""


@contextmanager
def memory_advised(run: RunFile) -> Iterator[None]:
    """Within the block, running out of the GPU's memory is an OutOfMemoryError whose action names changes that would fit."""
    try:
        yield
    except (RuntimeError, OutOfMemoryError) as error:
        ours = failures.translated(error)
        on_gpu = "cuda" in str(ours).lower() and torch.cuda.is_available()
        if isinstance(ours, OutOfMemoryError) and ours.action is None and on_gpu:
            _, total = torch.cuda.mem_get_info()
            sizes = works_of_run(run)
            ours.action = advice(largest(sizes), total, sizes)
        if ours is error:
            raise
        raise ours from error


def advice(work: Work, total: int, sizes: Sequence[Work] = ()) -> str:
    """What would fit into a GPU of `total` bytes, or which other would, in words; empty when nothing is known.

    `work` and `sizes` are as `changes_that_fit` has them.
    """
    need = least_needed(work)
    available = total - RESERVED
    usable = min(available, need - need // LESS)
    this = Gpu(product="this GPU", mebibytes=(usable + RESERVED) // MIB, teraflops=0)
    changes = [f"{VARIABLE} 1 in workers.env"] if need <= available else []
    changes += [change for change in changes_that_fit(work, this, sizes) if not change.startswith("a GPU")]
    larger = [gpu for gpu in GPUS.values() if gpu.mebibytes * MIB > total and fits(work, gpu)]
    if larger:
        changes.append(f"a GPU such as {larger[-1].product}")
    if not changes:
        return ""
    return f"predicted need {gibibytes(need)} GiB of {gibibytes(total)} GiB; use {', or '.join(changes)}"
