"""A step of a deep model, traced with a few of its blocks and carried on: all blocks but the last are alike.

Operations are linear in the number of blocks of a kind; so is the peak, as long as it stands at the same place of the step, which
`tests/bench/step_costs.py` shows by tracing all 48.
"""

from __future__ import annotations

from dataclasses import fields, replace

from mochi_api.spec import Mode
from mochi_trainer.model import DiTParams
from mochi_trainer.plan.tracing import Traced, trace_step

FEW = 3
"""With fewer no weights are gathered ahead at the peak."""


def traced_by_few(
    params: DiTParams, frames: int, mode: Mode, *, world: int = 1, left_alone: int = 0
) -> Traced:
    """What `trace_step` finds for a video of 480 x 848 with the longest caption, from two or three traces of a few blocks."""

    def traced(depth: int, alone: int) -> Traced:
        return trace_step(replace(params, depth=depth), frames, mode, world=world, left_alone=alone)

    alone = min(left_alone, FEW)  # fewer may put the peak where no block is left alone
    few = alone + FEW
    if params.depth <= few + 1:
        return traced(params.depth, left_alone)
    base, again = traced(few, alone), traced(few + 1, alone)
    kept = traced(few + 1, alone + 1) if left_alone > alone else base
    more = left_alone - alone

    def whole(name: str) -> int:
        start, one_again, one_kept = (int(getattr(each, name)) for each in (base, again, kept))
        return start + (params.depth - few - more) * (one_again - start) + more * (one_kept - start)

    return Traced(**{each.name: whole(each.name) for each in fields(Traced)})
