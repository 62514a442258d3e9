"""The cache by hand: what lies in it, and away with what no run uses."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from mochi_api import layout
from mochi_api.runfile import PREPROCESSING
from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.graph.keeping import Usage, read_lists, usage
from mochi_trainer.report.record import StageRecord, read_records
from mochi_trainer.storage import Connection, ObjectInfo, Store, address_by_hand, open_store

DAY = 86_400.0
AT_WORK_SECONDS = 900.0
"""A pulse of a stage that is younger than this, whatever differences of clocks, is that of one at work."""
_PULSE = re.compile(rf"({'|'.join(PREPROCESSING)})/claims/[^/]+/pulse/.+\.json")
_RECORD = re.compile(r"stages/([a-z]+)(-rank-\d+)?\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of a cache."""

    address: str
    """`outputURI` or `cacheURI` of the runs, or a folder: what lies above `cache/`."""
    runs: Sequence[str] = ()
    """Addresses above `runs/`; where none is given the cache's own."""
    young_days: float = 7.0
    """What is younger than this is left alone."""
    remove: bool = False


def look(request: Request, s3: S3Spec, *, now: Callable[[], float] = time.time) -> str:
    """A table of what is used and what is not; with `remove` the rest is deleted.

    Raises MissingObjectError where there is neither cache nor run, InvalidInputError when something should be removed and
    no run is found, one does not say what it uses, or a stage is at work, and what the stores raise.
    """
    if not (math.isfinite(request.young_days) and request.young_days >= 0):
        raise InvalidInputError(f"--young-days must be a number of at least 0, got {request.young_days:g}")
    address = address_by_hand(request.address)
    connection = Connection(s3)
    cache = open_store(layout.cache_root(address, ""), s3, connection)
    runs = _runs([address_by_hand(each) for each in request.runs] or [address], s3, connection)
    objects = list(cache.list())
    if not objects and not runs.count:
        raise MissingObjectError(
            f"there is neither a cache nor a run at {address}",
            action="give what lies above cache/ and runs/: outputURI or cacheURI of the runs, or the folder of --out",
        )
    if request.remove:
        _require_known(runs, request)
        _require_rest(cache, objects, now())
    found = usage(
        objects, read_lists(cache, objects), runs.named, young_after=now() - request.young_days * DAY
    )
    if request.remove:
        _remove(cache, found)
    return _table(cache, found, runs, request)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Runs:
    """What the runs that are kept say."""

    count: int
    named: Collection[str]
    """Outputs of stages that they use."""
    silent: Sequence[str]
    """Those that do not say what they use, and why."""


def _runs(addresses: Sequence[str], s3: S3Spec, connection: Connection) -> _Runs:
    named: set[str] = set()
    silent: list[str] = []
    count = 0
    for address in addresses:
        root = open_store(layout.join(address, "runs"), s3, connection)
        keys: dict[str, list[str]] = defaultdict(list)
        for info in root.list():
            uid, _, key = info.key.partition("/")
            keys[uid].append(key)
        for uid, there in sorted(keys.items()):
            where = layout.run_root(address, uid)
            records = read_records(open_store(where, s3, connection))
            count += bool(records)
            named |= _named(records)
            if why := _silence(there, records):
                silent.append(f"{where} ({why})")
    return _Runs(count=count, named=named, silent=silent)


def _named(records: Sequence[StageRecord]) -> set[str]:
    """The outputs of stages in the cache that records of one run name."""
    results = ((record.stage, record.outcome.stage_result) for record in records)
    return {
        f"{stage}/{result.cache_key}" for stage, result in results if result is not None and result.cache_key
    }


def _silence(keys: Iterable[str], records: Sequence[StageRecord]) -> str:
    """Why a run with these objects does not say all that it uses of the cache; empty when it does."""
    there = {key.partition("/")[0] for key in keys}
    files = {match[1] for key in keys if (match := _RECORD.fullmatch(key))}
    lacking = [stage for stage in PREPROCESSING if stage not in {record.stage for record in records}]
    if damaged := [stage for stage in lacking if stage in files]:
        return f"its record of {damaged[0]} cannot be read"
    if lacking and there & {"attempts", "checkpoints"}:
        return f"it has trained and has no record of {lacking[0]}"
    return ""


def _require_known(runs: _Runs, request: Request) -> None:
    """Raise InvalidInputError unless it is known what is used."""
    if not runs.count:
        raise InvalidInputError(
            f"no run is stored below {', '.join(request.runs or [request.address])}, so nothing would count as used; "
            "name every outputURI whose runs share this cache with --runs"
        )
    if runs.silent:
        raise InvalidInputError(
            f"nothing is removed, since not every run says what it uses: {'; '.join(runs.silent[:3])}",
            action="delete the folders of these runs if you do not need them any more, and try again",
        )


def _require_rest(cache: Store, objects: Iterable[ObjectInfo], now: float) -> None:
    """Raise InvalidInputError while a stage is at work: of what it has found, however old, nothing is named before its end."""
    for info in objects:
        if _PULSE.fullmatch(info.key) and info.modified > now - AT_WORK_SECONDS:
            raise InvalidInputError(
                f"nothing is removed, since a stage is at work in this cache: {cache.address(info.key)} was written "
                f"{max(0.0, now - info.modified):.0f} s ago",
                action=f"try again when the stages of its runs have ended; where none is at work, in {AT_WORK_SECONDS / 60:.0f} minutes",
            )


def _remove(cache: Store, found: Sequence[Usage]) -> None:
    """Lists before what they list, records before files: whoever reads at this moment finds the whole or nothing."""
    unused = [info.key for stage in found for info in stage.unused]
    cache.delete(
        sorted(unused, key=lambda key: (not key.endswith(layout.MANIFEST), not key.endswith(".json")))
    )


def _table(cache: Store, found: Sequence[Usage], runs: _Runs, request: Request) -> str:
    lines = [f"{cache.address()}: {runs.count} runs are kept", ""]
    lines += [f"does not say what it uses, so --remove refuses: {each}" for each in runs.silent]
    lines.append(f"{'stage':<10}{'outputs':>9}{'units':>9}{'used':>12}{'unused':>12}")
    for stage in found:
        used, unused = (sum(info.size for info in part) for part in (stage.used, stage.unused))
        lines.append(f"{stage.stage:<10}{stage.lists:>9}{stage.units:>9}{_size(used):>12}{_size(unused):>12}")
    count = sum(len(stage.unused) for stage in found)
    young = f"{request.young_days:g} days"
    if request.remove:
        lines += ["", f"removed {count} objects"]
    elif count:
        lines += [
            "",
            f"{count} objects older than {young} are used by no run that is kept: --remove deletes them",
        ]
    else:
        lines += ["", f"nothing older than {young} is unused"]
    return "\n".join(lines) + "\n"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
