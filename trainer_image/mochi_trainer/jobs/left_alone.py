"""How many blocks keep all that they computed: as many as the GPU has room for, by the formula, or as many as was said."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch

from mochi_api.prediction.admission import gibibytes
from mochi_api.prediction.fitting import largest_policy, needed
from mochi_api.prediction.policies import LEAST
from mochi_api.prediction.work import Work, work_of_run
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.recompute import VARIABLE

log = logging.getLogger(__name__)


def blocks_left_alone(
    run: RunFile,
    depth: int,
    group: Group,
    device: torch.device,
    environ: Mapping[str, str],
    *,
    copies: int = 1,
    synchronise_once: bool = False,
) -> int:
    """The number that rank 0's environment names; otherwise on a GPU as many as fit into the fullest one of all ranks, and
    on a CPU, where memory is not what is short, all. Where blocks are swapped none but the last is left alone. `copies` and
    `synchronise_once` are as in `Choices`.

    Call before the weights are there; all ranks call together. Raises InvalidInputError for what is no number.
    """
    text: str = group.from_first(environ.get(VARIABLE, ""))
    if text.isdecimal():
        return int(text)
    if text:
        raise InvalidInputError(f"{VARIABLE} must be from 0 to the {depth} blocks of the model, got {text!r}")
    if work_of_run(run).swapped:
        return LEAST.left_alone
    if device.type != "cuda":
        return depth
    work = replace(work_of_run(run), copies=copies, synchronise_once=synchronise_once)
    return as_room_allows(work, min(group.gathered(free_bytes(device))))


def as_room_allows(work: Work, available: int) -> int:
    """The most blocks for which `available` bytes, but for a spare part, are enough; else the policy that needs least.

    Where even that is too much it is tried, with a warning: the formula may be wrong.
    """
    policy = largest_policy(work, available) or LEAST
    need = needed(work, policy)
    if need > available:
        log.warning(
            "the training needs %s GiB, and the GPU has %s GiB free: it will most likely not fit",
            gibibytes(need),
            gibibytes(available),
        )
    else:
        log.info(
            "predicted need %s GiB of %s GiB free, with %d blocks left alone",
            gibibytes(need),
            gibibytes(available),
            policy.left_alone,
        )
    return policy.left_alone


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can have: those nobody has, and those that torch holds and does not use."""
    free, _all = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
