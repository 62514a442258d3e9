"""How many copies of the weights the ranks of mode full hold: one in each pod where there is room, or as many as was said."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from mochi_api.prediction.fitting import copies_in_room
from mochi_api.prediction.work import work_of_run
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.left_alone import free_bytes
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.sharding import VARIABLE

log = logging.getLogger(__name__)


def weight_copies(run: RunFile, group: Group, device: torch.device, environ: Mapping[str, str]) -> int:
    """The number that rank 0's environment names; otherwise on GPUs one in each pod where all have the room, else one.

    Call before the weights are there; all ranks call together. Raises InvalidInputError for a number that does not divide
    that of the ranks.
    """
    if run.mode != "full":
        return 1
    text: str = group.from_first(environ.get(VARIABLE, ""))
    if text:
        copies = _said(text, group.world)
    elif device.type == "cuda":
        copies = copies_in_room(work_of_run(run), min(group.gathered(free_bytes(device))))
    else:
        copies = 1
    log.info(
        "%d %s of the weights, each in %d equal parts",
        copies,
        "copy" if copies == 1 else "copies",
        group.world // copies,
    )
    return copies


def _said(text: str, world: int) -> int:
    copies = int(text) if text.isdecimal() else 0
    if copies < 1 or world % copies:
        raise InvalidInputError(f"{VARIABLE} must divide the {world} ranks of the training, got {text!r}")
    return copies
