"""How the checkpoints of a run are written: with which patience, and where the state is kept meanwhile."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mochi_api.runfile import RunFile
from mochi_trainer import host_memory
from mochi_trainer.errors import DiskFullError
from mochi_trainer.lora import trainable_parameters
from mochi_trainer.storage import Connection, Fence, FencedStore, Patience, open_store
from mochi_trainer.train.completion import Completion
from mochi_trainer.train.copies import Copy, DiskCopy, copy_for
from mochi_trainer.train.feeding import Training
from mochi_trainer.train.gauges import Gauges
from mochi_trainer.train.saving import PATIENCE_SECONDS, Saving
from mochi_trainer.train.series import Series
from mochi_trainer.train.shards import most_bytes, own_file
from mochi_trainer.train.terms import terms_of

log = logging.getLogger(__name__)

PATIENCE = Patience(attempts=2, first_seconds=10, total_seconds=10, renewal_seconds=0)
"""Short: who writes a checkpoint asks again itself, with renewed keys too, and knows by then that the store is away."""


@contextmanager
def saving(
    run: RunFile, training: Training, series: Series, gauges: Gauges, folder: Path | None = None
) -> Iterator[Saving]:
    """The writer of the run's checkpoints for the length of the block. All ranks call together.

    `folder` is for what memory is too small for; the system's for temporary files when None. Raises DiskFullError, on all
    ranks, when one of them has room for its state neither in memory nor on its disk.
    """
    group, parameters = training.group, trainable_parameters(training.model)
    impatient = open_store(run.locations.run, run.s3, Connection(run.s3, PATIENCE))
    store = FencedStore(impatient, Fence(impatient, run.run.attempt))
    with tempfile.TemporaryDirectory(prefix="mochi-copy-", dir=folder) as own:
        writer = Saving(
            store,
            group,
            parameters,
            training.optimizer,
            training.average,
            _copy(training, Path(own)),
            Completion(
                store,
                keep_last=run.training.checkpoint.keep_last,
                before=lambda: series.upload(store),
            ),
            gauges,
            terms=terms_of(run),
            attempt=run.run.attempt,
            patience=PATIENCE_SECONDS,
        )
        try:
            yield writer
        finally:
            writer.close()


def _copy(training: Training, folder: Path) -> Copy:
    group = training.group
    parameters, averaged = trainable_parameters(training.model), training.average is not None
    writes = own_file(parameters, rank=group.rank, world=group.world).written
    need = most_bytes(parameters, first=group.first, averaged=averaged) if writes else 0
    found, problem = None, ""
    try:
        found = copy_for(need, host_memory.available(), folder)
    except DiskFullError as error:
        problem, action = f"rank {group.rank}: {error}", error.action
    problems = [text for text in group.gathered(problem) if text]
    if found is None or problems:
        raise DiskFullError(problems[0], action=action if problem else None)
    if isinstance(found, DiskCopy):
        log.warning(
            "host memory has no room for a copy of %.3g GiB: each checkpoint is first written to %s, and training waits for that",
            need / (1 << 30),
            folder,
        )
    return found
