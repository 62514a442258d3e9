"""Make what is missing of a set of units, together with every other process that wants some of them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from mochi_trainer.graph.ahead import ahead
from mochi_trainer.graph.claims import Claims
from mochi_trainer.graph.units import Content, Unit, Units
from mochi_trainer.movement import PROCESS

log = logging.getLogger(__name__)

BUCKET_DIGITS = 2
"""Digits of a key that name its bucket: at most 256 buckets a family."""
UPLOADS = 4
"""Units stored at once, while the next are made."""
POLL_SECONDS = 2.0
LOOK_SECONDS = 10.0
"""While others work on the same, between two looks at what they have made, at the least: progress counts it."""
POLL_SHARE = 10
"""A look at what others have made takes at most this part of the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A unit that is done, and not stored yet."""

    key: str
    files: Mapping[str, Content]
    """By suffix; paths are deleted when they are stored."""
    info: Mapping[str, Any]
    keep: bool = True
    """Whether another run may use it: a failure that may pass by itself is told to this one only."""


Maker = Callable[[Iterable[Sequence[str]]], Iterable[Made]]
"""Makes units of these keys, in any order; each group of them is claimed when it is taken, so it takes no more than it needs."""
Progress = Callable[[int, int], None]
"""Told how many units of how many are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """All units that were wanted."""

    units: Mapping[str, Unit]
    made: int
    """How many this process has made."""


def complete(
    units: Units,
    claims: Claims,
    keys: Sequence[str],
    make: Maker,
    *,
    at_once: int,
    usable: Callable[[Unit], bool] = lambda _: True,
    progress: Progress = lambda _done, _total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Completed:
    """Every unit of `keys`: those that are there, and the rest made here or by others, `at_once` claimed at a time.

    `usable` says which of those that are there count. Raises what `make` and the store raise.
    """
    wanted = list(dict.fromkeys(keys))
    found = {key: unit for key, unit in units.known(wanted).items() if usable(unit)}
    progress(len(found), len(wanted))
    made = 0
    if len(found) == len(wanted):
        return Completed(units=found, made=0)
    new = [key for key in wanted if key not in found]
    looks = _Looks()
    with claims.alive():
        while len(found) < len(wanted):
            before = len(found)
            share = _Share(units, claims, wanted, found, at_once, usable)
            for unit in _made(units, share.groups(), make):
                share.add(unit)
                made += 1
                progress(len(found), len(wanted))
                if claims.beside and looks.due():
                    looks.look(units, _missing(wanted, found), found, usable)
                    progress(len(found), len(wanted))
            if len(found) == before:
                _wait(units, _missing(wanted, found), found, usable, sleep)
            progress(len(found), len(wanted))
        units.keep_together(found[key] for key in new)
    return Completed(units=found, made=made)


class _Share:
    """What this process makes of what is missing: some buckets are claimed whenever a maker asks for more, and each is let
    go when all of its units are there."""

    def __init__(
        self,
        units: Units,
        claims: Claims,
        wanted: Sequence[str],
        found: dict[str, Unit],
        at_once: int,
        usable: Callable[[Unit], bool],
    ) -> None:
        self._units, self._claims, self._wanted, self._found = units, claims, wanted, found
        self._at_once, self._usable = at_once, usable
        self._given: set[str] = set()
        self._left: Counter[str] = Counter()
        """Of each bucket that is held: its units that are not there yet."""

    def groups(self) -> Iterator[list[str]]:
        """Keys of what is to be made; they end where others hold all that is left."""
        while True:
            missing = [key for key in _missing(self._wanted, self._found) if key not in self._given]
            taken = set(_taken(self._claims, missing, self._at_once))
            if not taken:
                return
            mine = [key for key in missing if _bucket(key) in taken]
            self._given.update(mine)
            self._left.update(map(_bucket, mine))
            if group := [key for key in mine if not self._is_there(key)]:
                yield group

    def _is_there(self, key: str) -> bool:
        """Whether another has made it since the listing."""
        there = self._units.find(key)
        if there is None or not self._usable(there):
            return False
        self.add(there)
        return True

    def add(self, unit: Unit) -> None:
        """One of the keys is there."""
        self._found[unit.key] = unit
        bucket = _bucket(unit.key)
        self._left[bucket] -= 1
        if not self._left[bucket]:
            self._claims.release(bucket)


def _missing(wanted: Sequence[str], found: Mapping[str, Unit]) -> list[str]:
    return [key for key in wanted if key not in found]


def _made(units: Units, groups: Iterator[list[str]], make: Maker) -> Iterator[Unit]:
    """The units of the groups as they are stored, while the next are made; nothing is loaded for none."""
    for first in groups:
        for unit in ahead(partial(_stored, units), make(chain([first], groups)), at_once=UPLOADS):
            PROCESS.moved()
            yield unit


def _stored(units: Units, made: Made) -> Unit:
    if not made.keep:
        return Unit(key=made.key, files={}, info=made.info)
    unit = units.put(made.key, made.files, made.info)
    for content in made.files.values():
        if isinstance(content, Path):
            content.unlink()
    return unit


def _taken(claims: Claims, missing: Sequence[str], at_once: int) -> list[str]:
    """Buckets with about `at_once` missing units that no living process holds; what is left of an own share is taken alone."""
    taken: list[str] = []
    count = 0
    sizes: dict[str, int] = {}
    for key in missing:
        sizes[_bucket(key)] = sizes.get(_bucket(key), 0) + 1
    claims.look()
    for bucket in claims.order(sizes):
        if count >= at_once or (taken and claims.owns(taken[0]) and not claims.owns(bucket)):
            break
        if claims.take(bucket):
            taken.append(bucket)
            count += sizes[bucket]
    return taken


class _Looks:
    """Looks at what others have made while there is work of one's own: seldom enough to cost little."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LOOK_SECONDS

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def look(
        self, units: Units, missing: Sequence[str], found: dict[str, Unit], usable: Callable[[Unit], bool]
    ) -> None:
        begun = time.monotonic()
        found.update({key: unit for key, unit in units.known(missing).items() if usable(unit)})
        ended = time.monotonic()
        self._next = ended + max(LOOK_SECONDS, POLL_SHARE * (ended - begun))


def _wait(
    units: Units,
    missing: Sequence[str],
    found: dict[str, Unit],
    usable: Callable[[Unit], bool],
    sleep: Callable[[float], None],
) -> None:
    """Look what others have made, and give them time when that is nothing."""
    begun = time.monotonic()
    new = {key: unit for key, unit in units.known(missing).items() if usable(unit)}
    found.update(new)
    if new:
        PROCESS.moved()
        return
    log.info("waiting for %d results that others make", len(missing))
    sleep(max(POLL_SECONDS, POLL_SHARE * (time.monotonic() - begun)))


def _bucket(key: str) -> str:
    return key[:BUCKET_DIGITS]
