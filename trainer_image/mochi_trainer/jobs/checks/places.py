"""The stores of a run for its check: one client, little patience, and none left for a server that did not answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mochi_api.runfile import RunFile
from mochi_trainer.errors import StorageError
from mochi_trainer.jobs.checks.findings import Findings
from mochi_trainer.jobs.checks.watch import Watch
from mochi_trainer.storage import Connection, Patience, Store, open_store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds and attempts of the whole check."""

    patience: Patience = field(
        default_factory=lambda: Patience(
            connect_seconds=5, read_seconds=8, attempts=2, first_seconds=2, total_seconds=5, renewal_seconds=0
        )
    )
    answer_seconds: float = 22
    """Longest wait for one place, whatever the client does: a name server can be silent too."""
    listing_seconds: float = 12
    """After which a dataset is judged by the part of it that has been listed."""
    captions_seconds: float = 10
    """After which the captions that have not been read are left to the stage trim."""
    total_seconds: float = 45
    report_seconds: float = 8
    """For the record and the report afterwards."""


class Places:
    """Opens the stores of `run`."""

    def __init__(self, run: RunFile, limits: Limits, watch: Watch) -> None:
        self.run, self.limits = run, limits
        self._watch = watch
        self._connection = Connection(run.s3, limits.patience)
        self._silent = False

    def store(self, address: str) -> Store:
        """The store at `address`; raises InvalidInputError for an address that is none."""
        return open_store(address, self.run.s3, self._connection)

    def reachable(self, address: str) -> bool:
        """Whether it is worth asking: false for S3 once it has not answered."""
        return not (self._silent and address.startswith("s3://"))

    @contextmanager
    def asking(self, address: str, findings: Findings, what: str = "") -> Iterator[None]:
        """Take what goes wrong in the block as a problem; `what` there is waited for as long as one place may take."""
        log.info("looking at %s", f"{what} at {address}" if what else address)
        where = f"{address} at {self.run.s3.endpoint or 'AWS S3'}" if address.startswith("s3://") else address
        with findings.problem(address):
            try:
                with self._watch.waiting(where, self.limits.answer_seconds):
                    yield
            except StorageError:
                self._silent = self._silent or address.startswith("s3://")
                raise
