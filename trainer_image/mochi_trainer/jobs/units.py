"""What the stages share when they make units: whose claims they write, and which units count for a run."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from mochi_api import layout
from mochi_api.runfile import RunFile, Stage
from mochi_trainer.graph import Claims, Completed, Unit
from mochi_trainer.jobs.shards import shard_of
from mochi_trainer.storage import Store

MAKER = "maker"
"""Field of a unit's info: uid of the run that made it."""


def claims_for(run: RunFile, cache: Store, stage: Stage, family: str) -> Claims:
    """The claims of this process, a shard of its stage.

    Those of earlier attempts of the same step are void, since the operator runs one at a time, and so are those of earlier
    processes of the same shard; those of the other shards are as good as anybody's.
    """
    shard = shard_of(run, stage)
    step = f"{run.run.uid}.{stage}."
    attempt = f"{step}{run.run.attempt}."
    place = f"{attempt}{shard.index}of{shard.count}."

    def void(owner: str) -> bool:
        beside = shard.count > 1 and owner.startswith(attempt) and not owner.startswith(place)
        return owner.startswith(step) and not beside

    owner = f"{place if shard.count > 1 else attempt}{uuid4().hex[:8]}"
    return Claims(cache, layout.claims("", stage, family), owner, void=void, own=shard.owns)


def usable_by(run: RunFile) -> Callable[[Unit], bool]:
    """Which units count: all with cachePolicy Reuse, and with Refresh those that this run itself has made before."""
    if run.preprocessing.cache_policy == "Reuse":
        return lambda _: True
    return lambda unit: unit.info.get(MAKER) == run.run.uid


def new_ones(run: RunFile, stage: Stage, completed: Completed) -> int:
    """How many units are not from the cache: this process has made them or, where several share the stage, any of this run.

    The first shard tells it for all; it may have begun when the others were done.
    """
    if shard_of(run, stage).count == 1:
        return completed.made
    return sum(unit.info.get(MAKER) == run.run.uid for unit in completed.units.values())
