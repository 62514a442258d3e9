"""Units: what was made of one clip or one caption, as immutable objects under a key of everything that they depend on.

```
<stage>/units/<family>/<key>.json                  the record: files with size, SHA-256 and ETag, and what is known; last
<stage>/units/<family>/<key>.<sha256, 16 digits>.mov   a file; its name has its content, so that no two writers collide
```
A family has the units of the same parameters, so that one listing finds all that a run can use. Without its record a unit
does not exist (`mochi_trainer.graph.bundles` repeats many in one object); a record whose files are not there as they were stored counts for nothing, and the unit is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mochi_api import layout
from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError
from mochi_trainer.graph.bundles import Bundles, few
from mochi_trainer.storage import Entry, ObjectInfo, Store, file_sha256

VERSION = 1
RECORD = ".json"
AT_ONCE = 16
"""Records read at once."""

Content = Path | bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """One result."""

    key: str
    files: Mapping[str, Entry]
    """By suffix, such as `.mov`."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """What its maker says of it; plain JSON."""


def unit_key(stage: str, version: int, **parts: Any) -> str:
    """32 hexadecimal digits over the stage, the version of its code, and everything a unit depends on."""
    document = json.dumps({"stage": stage, "version": version, **parts}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(document.encode()).hexdigest()[:32]


class Units:
    """The units of one family. Methods raise what the store raises."""

    def __init__(self, store: Store, stage: str, family: str) -> None:
        self.store = store
        self.prefix = layout.units("", stage, family)
        self._bundles = Bundles(store, stage, family)

    def known(self, keys: Collection[str]) -> dict[str, Unit]:
        """Those of `keys` that are there, whole and as they were stored."""
        there = {info.key: info for info in self.store.list(f"{self.prefix}/")}
        records = self._records(there)
        wanted = [key for key in dict.fromkeys(keys) if key in records]
        bundled = self._bundles.read({key: records[key] for key in wanted})
        alone = [key for key in wanted if key not in bundled]
        with ThreadPoolExecutor(AT_ONCE, "records") as pool:
            documents = {**bundled, **dict(zip(alone, pool.map(self._document, alone), strict=True))}
        if not few(alone):
            self._bundles.write({key: found for key, found in documents.items() if found}, records)
        units = (_whole(_parsed(key, documents[key]), there.get) for key in wanted)
        return {unit.key: unit for unit in units if unit is not None}

    def keep_together(self, units: Iterable[Unit]) -> None:
        """Let the records of `units` be read together from now on, where they are many."""
        documents = {unit.key: _document(unit) for unit in units}
        if not few(documents):
            there = {info.key: info for info in self.store.list(f"{self.prefix}/")}
            self._bundles.write(documents, self._records(there))

    def find(self, key: str) -> Unit | None:
        """One unit, if it is there, whole and as it was stored."""
        return _whole(_parsed(key, self._document(key)), self.store.head)

    def put(self, key: str, files: Mapping[str, Content], info: Mapping[str, Any]) -> Unit:
        """Store a unit: its files, then its record."""
        entries = {suffix: self._put(key, suffix, content) for suffix, content in files.items()}
        unit = Unit(key=key, files=entries, info=info)
        content = json.dumps(_document(unit), ensure_ascii=False)
        self.store.write_bytes(self._record(key), content.encode())
        return unit

    def forget(self, keys: Iterable[str]) -> None:
        """Delete the records: the units are made again when they are asked for."""
        self.store.delete(self._record(key) for key in keys)

    def _put(self, key: str, suffix: str, content: Content) -> Entry:
        if isinstance(content, bytes):
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
        else:
            size, sha256 = content.stat().st_size, file_sha256(content)
        at = layout.join(self.prefix, f"{key}.{sha256[:16]}{suffix}")
        if isinstance(content, bytes):
            self.store.write_bytes(at, content)
        else:
            self.store.put(content, at)
        stored = self.store.head(at)
        if stored is None or stored.size != size:
            raise MissingObjectError(f"{self.store.address(at)} is not there as it was just stored")
        return Entry(name=f"{key}{suffix}", size=size, sha256=sha256, at=at, etag=stored.etag)

    def _records(self, there: Mapping[str, ObjectInfo]) -> dict[str, ObjectInfo]:
        """Of a listing those that are records, by the keys of their units."""
        start, end = len(self.prefix) + 1, len(RECORD)
        return {at[start:-end]: info for at, info in there.items() if at.endswith(RECORD)}

    def _document(self, key: str) -> dict[str, Any]:
        """What the record says; nothing where there is none or it is damaged."""
        try:
            document = json_of(self.store.read_bytes(self._record(key)))
        except (MissingObjectError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _record(self, key: str) -> str:
        return layout.join(self.prefix, f"{key}{RECORD}")


def _whole(unit: Unit | None, look: Callable[[str], ObjectInfo | None]) -> Unit | None:
    """The unit, if its files are there as they were stored."""
    return unit if unit is not None and all(_same(e, look(e.at)) for e in unit.files.values()) else None


def _same(entry: Entry, found: ObjectInfo | None) -> bool:
    return found is not None and found.size == entry.size and found.etag == entry.etag


def _document(unit: Unit) -> dict[str, Any]:
    files = {
        suffix: {"size": e.size, "sha256": e.sha256, "at": e.at, "etag": e.etag}
        for suffix, e in unit.files.items()
    }
    return {"version": VERSION, "files": files, "info": dict(unit.info)}


def _parsed(key: str, document: Mapping[str, Any]) -> Unit | None:
    """The unit of a record; None for one that is damaged or of another version."""
    try:
        files = {
            suffix: Entry(
                name=f"{key}{suffix}", size=e["size"], sha256=e["sha256"], at=e["at"], etag=e["etag"]
            )
            for suffix, e in document["files"].items()
        }
        return Unit(key=key, files=files, info=document["info"]) if document["version"] == VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
