"""What of a cache is used by the runs that are kept, and what is not; pure but for the reading of the lists."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mochi_api import layout
from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.storage import ObjectInfo, Store

STAGES = ("trim", "captions", "videos")

_LIST = re.compile(rf"({'|'.join(STAGES)})/([0-9a-f]{{32}})/{re.escape(layout.MANIFEST)}")
_UNIT = re.compile(rf"({'|'.join(STAGES)})/units/([0-9a-f]{{32}})/([0-9a-f]{{32}})\..+")
_PASSING = re.compile(rf"({'|'.join(STAGES)})/(claims|records)/.+")
_OF_LIST = re.compile(rf"(({'|'.join(STAGES)})/[0-9a-f]{{32}})/.+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Objects of one stage's cache."""

    stage: str
    lists: int
    """Outputs of whole stages that are used."""
    units: int
    """Clips or captions that are used."""
    used: Sequence[ObjectInfo]
    unused: Sequence[ObjectInfo]


def read_lists(cache: Store, objects: Iterable[ObjectInfo]) -> dict[str, list[str]]:
    """The keys that each output of a stage lists, by the output's directory; a damaged manifest lists none.

    Raises what the store raises.
    """
    found: dict[str, list[str]] = {}
    for info in objects:
        match = _LIST.fullmatch(info.key)
        if match is None:
            continue
        directory = f"{match[1]}/{match[2]}"
        try:
            entries = json_of(cache.read_bytes(info.key))["entries"]
            found[directory] = [entry.get("at") or f"{directory}/{entry['name']}" for entry in entries]
        except (MissingObjectError, ValueError, KeyError, TypeError, AttributeError):
            found[directory] = []
    return found


def usage(
    objects: Sequence[ObjectInfo],
    lists: Mapping[str, Sequence[str]],
    named: Collection[str],
    *,
    young_after: float,
) -> list[Usage]:
    """Each stage's objects, used and unused.

    `named` are the directories that runs name. What was written after `young_after` (Unix time) counts as used: a run may
    be about to list it. What has no name of the cache's own is nobody's business and in neither list.
    """
    kept = {directory for directory in lists if directory in named} | {
        f"{match[1]}/{match[2]}"
        for info in objects
        if _young(info, young_after) and (match := _LIST.fullmatch(info.key))
    }
    units = {_unit(key) for directory in kept for key in lists.get(directory, ())} - {None}
    return [_of_stage(stage, objects, kept, units, young_after) for stage in STAGES]


def _of_stage(
    stage: str,
    objects: Sequence[ObjectInfo],
    kept: Collection[str],
    units: Collection[str | None],
    young_after: float,
) -> Usage:
    used: list[ObjectInfo] = []
    unused: list[ObjectInfo] = []
    for info in objects:
        if not info.key.startswith(f"{stage}/"):
            continue
        needed = _needed(info.key, kept, units)
        if needed is None:
            continue
        (used if needed or _young(info, young_after) else unused).append(info)
    return Usage(
        stage=stage,
        lists=sum(directory.startswith(f"{stage}/") for directory in kept),
        units=len({_unit(info.key) for info in used} - {None}),
        used=used,
        unused=unused,
    )


def _young(info: ObjectInfo, young_after: float) -> bool:
    """Also of an object of which the store does not say when it was written."""
    return info.modified >= young_after or not info.modified


def _needed(key: str, kept: Collection[str], units: Collection[str | None]) -> bool | None:
    """Whether a run that is kept needs the object; None for what the cache does not know."""
    unit = _unit(key)
    if unit is not None:
        return unit in units
    if _PASSING.fullmatch(key):
        return False
    match = _OF_LIST.fullmatch(key)
    return None if match is None else match[1] in kept


def _unit(key: str) -> str | None:
    """Family and key of the unit that an object belongs to."""
    match = _UNIT.fullmatch(key)
    return None if match is None else f"{match[1]}/{match[2]}/{match[3]}"
