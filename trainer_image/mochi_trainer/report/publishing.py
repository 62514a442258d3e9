"""Puts a stage's record and the refreshed report into the run's folder."""

from __future__ import annotations

from mochi_api import layout
from mochi_api.outcomes import Reason
from mochi_api.runfile import PREVIEW, RunFile
from mochi_trainer.report.page import render
from mochi_trainer.report.record import StageRecord, write_record
from mochi_trainer.storage import Connection, Fence, Store, open_store


def publish(run: RunFile, record: StageRecord, connection: Connection | None = None) -> str:
    """Write record, run file and report; return the report's address. Ranks and shards but 0 speak up only when they fail.

    `connection` says how patient to be. Raises SupersededError when a newer attempt of the training has begun, and what the
    store raises.
    """
    store = open_store(run.locations.run, run.s3, connection)
    address = store.address(layout.REPORT)
    if record.outcome.rank and record.outcome.reason in {Reason.COMPLETED, Reason.PREEMPTED}:
        return address
    cache = open_store(run.locations.cache, run.s3, connection)
    if run.stage == PREVIEW:
        if record.outcome.reason is Reason.COMPLETED:
            refresh(store, run, cache)
        return address
    if run.stage == "train":
        Fence(store, run.run.attempt).check()
    write_record(store, record)
    store.write_bytes(layout.RUN_FILE, run.to_yaml().encode())
    store.write_bytes(layout.REPORT, render(store, run, cache).encode())
    return address


REFRESHES = 3


def refresh(store: Store, run: RunFile, cache: Store) -> None:
    """Write the report anew, and again when a stage has left its record meanwhile: its own report must not be lost."""
    for _ in range(REFRESHES):
        before = [info.identity for info in store.list("stages/")]
        store.write_bytes(layout.REPORT, render(store, run, cache).encode())
        if [info.identity for info in store.list("stages/")] == before:
            return
