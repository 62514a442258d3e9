"""Saved states of a training: written by all ranks, made valid by the manifest that rank 0 writes last.

`checkpoints/step-000200/` holds one shard for each rank (`mochi_trainer.train.shards`) and `manifest.json`.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mochi_api import layout
from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.parallel.group import Group
from mochi_trainer.storage import Entry, Manifest, Store, get_entry, put_entry, read_manifest, write_manifest
from mochi_trainer.train.shards import (
    Layout,
    MisfitError,
    State,
    put_state,
    read_shards,
    shapes_of,
    shard_name,
    updates_of,
    write_shard,
)

log = logging.getLogger(__name__)

FORMAT = 1
_STEP = re.compile(r"checkpoints/step-(\d{6,})/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a training stands, beyond weights and optimizer."""

    step: int
    """Steps completed."""
    loss: float | None
    """Loss of the last step with a finite one."""
    non_finite: int = 0
    """Steps skipped so far."""
    good: bool = True
    """Whether the last step was finite; a state that is not good is never resumed from."""


class Checkpoints:
    """The checkpoints of one run. `parameters` are those that training changes, by name; all ranks call alike."""

    def __init__(
        self,
        store: Store,
        group: Group,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        keep_last: int,
    ) -> None:
        self._store, self._group = store, group
        self._parameters, self._optimizer = parameters, optimizer
        self._keep_last = keep_last

    def save(self, position: Position) -> str:
        """Store the state after `position.step` steps; return the checkpoint's address. Older ones beyond the number to keep go.

        Raises what the store raises.
        """
        prefix = layout.checkpoint("", position.step)
        with tempfile.TemporaryDirectory(prefix="mochi-checkpoint-") as folder:
            path = Path(folder) / shard_name(self._group.rank, self._group.world)
            write_shard(path, self._parameters, self._optimizer, first=self._group.first)
            entry = put_entry(self._store, prefix, path, path.name)
        entries: list[Entry] = self._group.gathered(entry)
        if self._group.first:
            write_manifest(self._store, prefix, entries, self._details(position))
            if position.good:
                self._retire()
        self._group.barrier()
        return self._store.address(prefix)

    def resume(self) -> Position | None:
        """Load the newest complete good checkpoint; None when there is none and training starts anew.

        One that is incomplete, damaged or does not fit is left out with a warning.
        """
        for step in self._group.from_first(self._steps() if self._group.first else None):
            position = self._load(step)
            if position is not None:
                return position
        return None

    def _load(self, step: int) -> Position | None:
        """The position of one checkpoint after loading it on every rank; None, and no change, when any rank cannot."""
        found, problem = None, ""
        with tempfile.TemporaryDirectory(prefix="mochi-checkpoint-") as folder:
            try:
                found = self._read(step, Path(folder))
            except (MissingObjectError, StorageError, MisfitError) as error:
                problem = str(error)
        if found is None:
            log.warning("checkpoint of step %d is not used: %s", step, problem)
        if self._group.any(found is None) or found is None:
            return None
        position, state, updates = found
        put_state(state, self._parameters, self._optimizer, updates=updates)
        return position

    def _read(self, step: int, folder: Path) -> tuple[Position, State, int]:
        manifest = read_manifest(self._store, layout.checkpoint("", step))
        details = manifest.details
        if details.get("format") != FORMAT:
            raise MisfitError(f"its format must be {FORMAT}, got {details.get('format')!r}")
        position, updates = Position(**details["position"]), int(details["updates"])
        if not position.good:
            raise MisfitError("its loss was not finite")
        state = read_shards(
            lambda name: self._fetch(manifest, name, folder),
            Layout(details["files"], details["shapes"], details["sharded"]),
            self._parameters,
            updates=updates,
            rank=self._group.rank,
            world=self._group.world,
        )
        return position, state, updates

    def _fetch(self, manifest: Manifest, name: str, folder: Path) -> Path:
        path = folder / name
        if not path.exists():
            get_entry(self._store, manifest, name, path)
        return path

    def _details(self, position: Position) -> dict[str, object]:
        return {
            "format": FORMAT,
            "position": asdict(position),
            "files": self._group.world,
            "sharded": any(isinstance(p, DTensor) for p in self._parameters.values()),
            "updates": updates_of(self._parameters, self._optimizer),
            "shapes": shapes_of(self._parameters),
        }

    def _steps(self) -> list[int]:
        """Steps that have a folder, newest first, complete or not."""
        found = (_STEP.match(info.key) for info in self._store.list("checkpoints/"))
        return sorted({int(match[1]) for match in found if match}, reverse=True)

    def _retire(self) -> None:
        """Remove all but the newest complete checkpoints, and what is left of broken older ones; manifests go first."""
        complete = 0
        for step in self._steps():
            prefix = layout.checkpoint("", step)
            manifest = layout.join(prefix, layout.MANIFEST)
            if complete < self._keep_last:
                complete += self._store.exists(manifest)
                continue
            self._store.delete([manifest])
            self._store.delete([info.key for info in self._store.list(prefix + "/")])
