"""The compiler of a run's blocks: inductor on a GPU where it passes its check, or the one that was named, which must pass it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch

from mochi_api.prediction.work import work_of_run
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiTParams
from mochi_trainer.parallel.compilation import OFF, VARIABLE
from mochi_trainer.parallel.context import alone
from mochi_trainer.parallel.group import Group
from mochi_trainer.train.compiler_check import trouble
from mochi_trainer.train.composition import Adapters, Choices

log = logging.getLogger(__name__)


def usual(device_type: str) -> str | None:
    """The compiler where none was named; None computes blocks operator by operator."""
    return "inductor" if device_type == "cuda" else None


def training_compiler(
    run: RunFile,
    params: DiTParams,
    choices: Choices,
    adapters: Adapters | None,
    group: Group,
    device: torch.device,
    environ: Mapping[str, str],
    *,
    otherwise: str | None,
) -> str | None:
    """The one that rank 0's environment names, or else `otherwise`, if it passes its check on every rank; None compiles nothing.

    `choices` are the others of the run. A compiler that nobody named and that fails is left out, with a warning; so is
    it where blocks wait in host memory. The check takes memory for two blocks: call before the weights are there. All ranks
    call together. Raises InvalidInputError for a compiler that was named and is unknown, fails, or does not go with blocks that wait.
    """
    said: str = group.from_first(environ.get(VARIABLE, ""))
    name = None if said == OFF else (said or otherwise)
    if said and name is not None:
        _known(name)
    work = work_of_run(run)
    if name is not None and not work.compiled:
        if said:
            raise InvalidInputError(
                f"{VARIABLE} must be left out or {OFF} with spec.training.lora.blocksToSwap {work.swapped}, got {said}"
            )
        log.info("blocks are not compiled, since %d of them wait in host memory", work.swapped)
        return None
    if name is None:
        log.info("blocks are computed operator by operator")
        return None
    log.info("compiler %s: checked on two blocks, which takes a minute or two", name)
    context = alone(group) if group.context > 1 else None
    found = trouble(
        params, replace(choices, compiler=name), adapters=adapters, device=device, context=context
    )
    troubles = {rank: each for rank, each in enumerate(group.gathered(found)) if each}
    if not troubles:
        log.info("blocks are compiled by %s", name)
        return name
    rank, why = next(iter(troubles.items()))
    where = f"on rank {rank}: {why}" if group.world > 1 else why
    if said:
        raise InvalidInputError(
            f"{VARIABLE} must name a compiler that works here, or {OFF}, got {said}, which does not, {where}"
        )
    log.warning("blocks are not compiled, which takes longer: %s cannot be used, %s", name, where)
    return None


def _known(name: str) -> None:
    known = torch._dynamo.list_backends(exclude_tags=())
    if name not in known:
        raise InvalidInputError(f"{VARIABLE} must be {OFF} or one of {', '.join(known)}, got {name}")
