"""Several pods share the work of one stage: which of how many this process is, and what the others but the first leave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mochi_api import resolved
from mochi_api.identity import SHARD_ENV
from mochi_api.runfile import RunFile, Stage
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs.finished import Finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """This process's place among all that work on one stage."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes the stage's output, its record and the report."""
        return self.index == 0

    def owns(self, bucket: str) -> bool:
        """Whether a bucket of units, named in hexadecimal digits, is in its own share: it begins with those."""
        return int(bucket, 16) % self.count == self.index

    def done(self, made: int, total: int, noun: str) -> Finished:
        """What a shard other than the first says at its end, when all units are there."""
        return Finished(
            result=None, message=f"shard {self.index} of {self.count} made {made} of {total} {noun}"
        )


def shard_of(run: RunFile, stage: Stage, environment: Mapping[str, str] = os.environ) -> Shard:
    """The place that JOB_COMPLETION_INDEX gives this process; without it, as by hand, it is the first and makes all.

    Raises InvalidInputError when that is no number below the stage's `shards`.
    """
    count = resolved.shards(run.preprocessing, stage)
    text = environment.get(SHARD_ENV, "0")
    if count == 1:
        return Shard()
    if not text.isdecimal() or int(text) >= count:
        raise InvalidInputError(
            f"{SHARD_ENV} must be between 0 and preprocessing.{stage}.shards - 1 = {count - 1}, got {text!r}"
        )
    return Shard(index=int(text), count=count)
