"""Whether the GPUs that a spec allows have the memory that its training needs."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api import resolved
from mochi_api.prediction.fitting import changes_that_fit, fits, least_needed
from mochi_api.prediction.gpus import GIB, GPUS, Gpu
from mochi_api.prediction.work import largest, work_of, works_of
from mochi_api.spec import FineTuneSpec


def memory_problem(spec: FineTuneSpec) -> str | None:
    """Why the training fits into none of the GPUs that it may run on, and what would fit; None when it may fit.

    Nothing is said of a run without GPUs, where any product may be taken, or where one of them is unknown.
    """
    gpus = _known(spec.workers.gpu_products)
    if not gpus or resolved.gpus(spec).training == 0:
        return None
    sizes = works_of(spec)
    work = largest(sizes)
    if any(fits(work, gpu) for gpu in gpus):
        return None
    most = max(gpus, key=lambda gpu: gpu.mebibytes)
    changes = changes_that_fit(work, most, sizes)
    of_several = f", the largest of {len(sizes)} sizes ({work.place})," if len(sizes) > 1 else ""
    advice = f"; what would fit: {', or '.join(changes)}" if changes else ""
    return (
        f"spec.workers.gpuProducts must name a GPU with at least {gibibytes(least_needed(work))} GiB free for mode "
        f"{work.mode} with {work.frames} frames of {work.width}x{work.height}{of_several} on {work.world} "
        f"{'GPU' if work.world == 1 else 'GPUs'}, got {most.product} with {gibibytes(most.available)} GiB{advice}"
    )


def predicted_memory(spec: FineTuneSpec) -> str | None:
    """GiB that each GPU of the training needs at least, with one decimal; None without GPUs."""
    if resolved.gpus(spec).training == 0:
        return None
    return gibibytes(least_needed(work_of(spec)))


def gibibytes(count: int) -> str:
    """With one decimal."""
    return f"{count / GIB:.1f}"


def _known(products: Sequence[str]) -> list[Gpu]:
    """The products, when all of them are known."""
    known = [GPUS[product] for product in products if product in GPUS]
    return known if len(known) == len(products) else []
