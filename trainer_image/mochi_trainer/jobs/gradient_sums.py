"""How often a step of mode full sums its gradients over the ranks: once where there is room to keep them whole, or as was said."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch

from mochi_api.prediction.fitting import once_in_room
from mochi_api.prediction.work import work_of_run
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.left_alone import free_bytes
from mochi_trainer.parallel.gradients import VARIABLE
from mochi_trainer.parallel.group import Group

log = logging.getLogger(__name__)


def synchronised_once(
    run: RunFile, group: Group, device: torch.device, environ: Mapping[str, str], *, copies: int
) -> bool:
    """Whether with the last of a step's clips only: as rank 0's environment says; otherwise on GPUs where all have the room.

    Of one clip a rank, or in mode lora, there is nothing to choose. `copies` are those of the weights. Call before the weights
    are there; all ranks call together. Raises InvalidInputError for what is neither 0 nor 1.
    """
    work = replace(work_of_run(run), copies=copies)
    text: str = group.from_first(environ.get(VARIABLE, ""))
    if text not in {"", "0", "1"}:
        raise InvalidInputError(f"{VARIABLE} must be 0 or 1, got {text!r}")
    if not work.full or work.share == 1:
        return False
    if text:
        once = text == "1"
    else:
        once = device.type == "cuda" and once_in_room(work, min(group.gathered(free_bytes(device))))
    log.info(
        "gradients of the %d clips of a step are summed over the ranks %s",
        work.share,
        "once, with the last of them" if once else "with each of them",
    )
    return once
