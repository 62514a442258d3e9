"""The cache by hand: what lies in it, and away with what no run uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mochi_api import layout
from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.graph.keeping import Usage, read_lists, usage
from mochi_trainer.report.record import read_records
from mochi_trainer.storage import Store, open_store

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of a cache."""

    address: str
    """`outputURI` or `cacheURI` of the runs: the address above `cache/`."""
    runs: Sequence[str] = ()
    """Addresses above `runs/`; where none is given the cache's own."""
    young_days: float = 7.0
    """What is younger than this is left alone."""
    remove: bool = False


def look(request: Request, s3: S3Spec, *, now: Callable[[], float] = time.time) -> str:
    """A table of what is used and what is not; with `remove` the rest is deleted.

    Raises InvalidInputError when no run is found and something should be removed, and what the stores raise.
    """
    cache = open_store(layout.cache_root(request.address, ""), s3)
    named, runs = _named(request.runs or [request.address], s3)
    if request.remove and not runs:
        raise InvalidInputError(
            f"no run is stored below {', '.join(request.runs or [request.address])}, so nothing would count as used; "
            "name every outputURI whose runs share this cache with --runs"
        )
    objects = list(cache.list())
    found = usage(objects, read_lists(cache, objects), named, young_after=now() - request.young_days * DAY)
    if request.remove:
        _remove(cache, found)
    return _table(cache, found, runs, request)


def _named(addresses: Sequence[str], s3: S3Spec) -> tuple[set[str], int]:
    """The outputs of stages that the records of runs name, and how many runs there are."""
    named: set[str] = set()
    runs = 0
    for address in addresses:
        root = open_store(layout.join(address, "runs"), s3)
        uids = {info.key.partition("/")[0] for info in root.list() if "/stages/" in info.key}
        runs += len(uids)
        for uid in sorted(uids):
            for record in read_records(open_store(layout.run_root(address, uid), s3)):
                result = record.outcome.stage_result
                if result is not None and result.cache_key:
                    named.add(f"{record.stage}/{result.cache_key}")
    return named, runs


def _remove(cache: Store, found: Sequence[Usage]) -> None:
    """Lists before what they list, records before files: whoever reads at this moment finds the whole or nothing."""
    unused = [info.key for stage in found for info in stage.unused]
    cache.delete(
        sorted(unused, key=lambda key: (not key.endswith(layout.MANIFEST), not key.endswith(".json")))
    )


def _table(cache: Store, found: Sequence[Usage], runs: int, request: Request) -> str:
    lines = [f"{cache.address()}: {runs} runs are kept", ""]
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
