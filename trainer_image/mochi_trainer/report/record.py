"""Records: the JSON in which each stage leaves how it ended, for the report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from pydantic import Field
from pydantic_core import from_json

from mochi_api import layout
from mochi_api.base import ApiModel
from mochi_api.identity import IMAGE_ENV
from mochi_api.outcomes import Item, Outcome, Reason
from mochi_api.reading import lenient
from mochi_api.runfile import STAGES, Stage
from mochi_trainer.storage import Store


class StageRecord(ApiModel):
    """How one stage ended."""

    stage: Stage
    attempt: int = 1
    outcome: Outcome
    started: str
    """ISO 8601, UTC."""
    seconds: float
    failures: list[Item] = Field(default_factory=list)
    """All clips that could not be used."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What the report shows beyond the outcome."""
    versions: dict[str, str] = Field(default_factory=dict)


def write_record(store: Store, record: StageRecord) -> None:
    """Write the record into the run's folder; ranks and shards but 0 have their own."""
    name = record.stage if record.outcome.rank == 0 else f"{record.stage}-rank-{record.outcome.rank}"
    store.write_bytes(layout.stage_record("", name), record.model_dump_json(by_alias=True, indent=1).encode())


def read_records(store: Store) -> list[StageRecord]:
    """The record of each stage that has one, in the order of the stages.

    A gang fails on one rank and the others only notice: of several records of one attempt the telling one counts.
    """
    found: dict[str, StageRecord] = {}
    for info in store.list("stages/"):
        record = _read(store.read_bytes(info.key))
        if record is None:
            continue
        present = found.get(record.stage)
        if present is None or _telling(record) > _telling(present):
            found[record.stage] = record
    return [found[stage] for stage in STAGES if stage in found]


def _read(document: bytes) -> StageRecord | None:
    """A record that another version may have written; None when it is none."""
    try:
        raw = from_json(document)
    except ValueError:
        return None
    return lenient(StageRecord, raw)


def versions() -> dict[str, str]:
    """Image, code and library versions of this process."""
    names = {"code": "mochi-operator", "torch": "torch", "transformers": "transformers", "av": "av"}
    known = {"image": os.environ.get(IMAGE_ENV, ""), "python": platform.python_version()}
    for name, distribution in names.items():
        try:
            known[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def _telling(record: StageRecord) -> tuple[int, int, int]:
    consequence = record.outcome.reason in {Reason.COLLECTIVE_TIMEOUT, Reason.PREEMPTED}
    return (record.attempt, 0 if consequence else 1, -record.outcome.rank)
