"""Signs of life, collected beside the passes: a pod that hangs, or lies, holds up nobody but itself.

Rank 0 of a training is asked by its address. Where that does not answer (a NetworkPolicy, strict mTLS), and for every
other step, the pod's log is read through the API server instead. Each pod is asked by a task of its own, in turn and
with a limit on time and size.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mochi_api.heartbeat import LINE_SECONDS, Heartbeat, newest
from mochi_operator.cluster import Cluster, ClusterError
from mochi_operator.snapshot import Reading

_log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Pause between two questions to an address."""
LOG_POLL_SECONDS = 15.0
"""Pause between two looks into a log."""
LOG_SINCE_SECONDS = int(3 * LINE_SECONDS)
"""How far back a look into the log goes, by the clock of the node that wrote it."""
LOG_BYTES = 64 * 1024
AT_ONCE = 16
"""Questions under way at the same time."""

Key = tuple[str, str]
Lane = Literal["main", "beside"]
"""A run has up to two pods that are listened to: that of its sequence, and one that makes samples beside the training."""

_Place = tuple[Key, Lane]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The pod whose sign of life counts for a run."""

    namespace: str
    pod: str
    uid: str
    container: str
    address: str
    """Empty: it serves nothing, only its log tells."""


class HeartbeatSource(Protocol):
    """Where signs of life come from by address."""

    async def ask(self, address: str) -> Heartbeat | None:
        """What the pod at `address` says, or None when it does not answer in time or not in this form."""
        ...


class SignsOfLife(Protocol):
    """What the passes need of a prober."""

    def aim(self, key: Key, target: Target | None, lane: Lane = "main") -> None:
        """From now on ask this pod for the run `key`; None: nobody."""
        ...

    def reading(self, key: Key, lane: Lane = "main") -> Reading | None:
        """What is known of the pod that `key` is aimed at."""
        ...


class Prober:
    """`SignsOfLife` of real pods, timed by `clock`, which tells seconds and never jumps. Asks the pods it is aimed at, and remembers the newest answer of each."""

    def __init__(
        self,
        source: HeartbeatSource,
        cluster: Cluster,
        clock: Callable[[], float],
        wake: Callable[[Key], None],
        *,
        told_seconds: float,
        poll_seconds: float = POLL_SECONDS,
        log_poll_seconds: float = LOG_POLL_SECONDS,
    ) -> None:
        self._source = source
        self._cluster = cluster
        self._clock = clock
        self._wake = wake
        self._told_seconds = told_seconds
        self._poll_seconds, self._log_poll_seconds = poll_seconds, log_poll_seconds
        self._targets: dict[_Place, Target] = {}
        self._readings: dict[_Place, Reading] = {}
        self._tasks: dict[_Place, asyncio.Task[None]] = {}
        self._told: dict[_Place, float] = {}
        self._came: dict[_Place, float] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    def aim(self, key: Key, target: Target | None, lane: Lane = "main") -> None:
        """From now on ask this pod for the run `key`; None: nobody."""
        place = (key, lane)
        if self._targets.get(place) == target:
            return
        self._stop(place)
        if target is None:
            return
        self._targets[place] = target
        self._readings[place] = Reading(pod_uid=target.uid)
        self._tasks[place] = asyncio.get_running_loop().create_task(self._follow(place, target))

    def reading(self, key: Key, lane: Lane = "main") -> Reading | None:
        """What is known of the pod that `key` is aimed at."""
        reading = self._readings.get((key, lane))
        if reading is None:
            return None
        return replace(reading, age_seconds=self._clock() - self._came.get((key, lane), self._clock()))

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for place in list(self._tasks):
            self._stop(place)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, place: _Place) -> None:
        task = self._tasks.pop(place, None)
        if task is not None:
            task.cancel()
        self._targets.pop(place, None)
        self._readings.pop(place, None)
        self._told.pop(place, None)
        self._came.pop(place, None)

    async def _follow(self, place: _Place, target: Target) -> None:
        """Ask one pod again and again until somebody aims elsewhere."""
        while True:
            try:
                async with self._places:
                    reading = await self._asked(target, self._readings[place])
            except Exception:
                # One pod's oddity must not end the questions to it, let alone to others.
                _log.exception("%s/%s: a sign of life could not be read", target.namespace, target.pod)
                reading = self._missed(self._readings[place], log_readable=False)
            news = self._is_news(place, self._readings[place], reading)
            self._readings[place] = reading
            if not reading.silent:
                self._came[place] = self._clock()
            if news:
                self._told[place] = self._clock()
                self._wake(place[0])
            answers = target.address and not reading.by_log
            await asyncio.sleep(self._poll_seconds if answers else self._log_poll_seconds)

    async def _asked(self, target: Target, before: Reading) -> Reading:
        beat = await self._source.ask(target.address) if target.address else None
        if beat is not None:
            return Reading(pod_uid=target.uid, heartbeat=beat)
        try:
            text = await self._cluster.log(
                target.namespace,
                target.pod,
                container=target.container,
                since_seconds=LOG_SINCE_SECONDS,
                limit_bytes=LOG_BYTES,
            )
        except ClusterError as error:
            _log.info("%s/%s: the log cannot be read: %s", target.namespace, target.pod, error)
            text = None
        beat = newest(text) if text is not None else None
        if beat is None or _older(beat, before.heartbeat):
            return self._missed(before, log_readable=text is not None)
        return Reading(pod_uid=target.uid, heartbeat=beat, by_log=True)

    @staticmethod
    def _missed(before: Reading, *, log_readable: bool) -> Reading:
        return replace(before, silent=before.silent + 1, log_readable=log_readable, by_log=log_readable)

    def _is_news(self, place: _Place, before: Reading, now: Reading) -> bool:
        """Whether a pass should look at it: the first sign, the end or the return of silence, else at a steady pace."""
        if before.heartbeat is None or bool(before.silent) != bool(now.silent):
            return True
        told = self._told.get(place)
        return told is None or self._clock() - told >= self._told_seconds


def _older(beat: Heartbeat, known: Heartbeat | None) -> bool:
    """Whether a line of the log was written before the last answer: a pod that has just ended answers no more."""
    return known is not None and beat.attempt == known.attempt and beat.done < known.done
