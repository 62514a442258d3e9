"""Records of units read together: an object for each bucket of a family repeats them, so that planning 10,000 clips takes
256 requests and not 10,000.

```
<stage>/records/<family>/<2 digits>.json     {"version": 1, "records": {key: {"etag", "size", "document"}}}
```
What is repeated counts only while the record itself is there with the same ETag and size, as the listing of the family
tells. So a bundle that is old, damaged, lost or written by two at once costs time and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mochi_api import layout
from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError, TrainerError
from mochi_trainer.storage import ObjectInfo, Store

log = logging.getLogger(__name__)

VERSION = 1
AT_ONCE = 16
"""Objects read or written at once."""
BUCKET_DIGITS = 2
"""Digits of a key that name its bundle: at most 256 bundles a family."""
WORTH = 64
"""From so many records on, bundles are read, or written when so many were not in one."""

Document = Mapping[str, Any]


class Bundles:
    """The bundles of one family. `records` are always objects of its listing, by the keys of their units."""

    def __init__(self, store: Store, stage: str, family: str) -> None:
        self._store = store
        self._prefix = layout.records("", stage, family)

    def read(self, records: Mapping[str, ObjectInfo]) -> dict[str, Document]:
        """Documents of those of `records` (by the units' keys) that a bundle repeats as they are there.

        Raises what the store raises.
        """
        if len(records) < WORTH:
            return {}
        buckets = sorted({_bucket(key) for key in records})
        with ThreadPoolExecutor(AT_ONCE, "bundles") as pool:
            bundles = pool.map(self._bundle, buckets)
            return {
                key: entry["document"]
                for bundle in bundles
                for key, entry in bundle.items()
                if key in records and _same(entry, records[key])
            }

    def write(self, documents: Mapping[str, Document], records: Mapping[str, ObjectInfo]) -> None:
        """Repeat these documents, beside what other datasets have put there; `records` are all of the family.

        A store that refuses is told and changes nothing: the records are there.
        """
        buckets: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, document in documents.items():
            if (info := records.get(key)) is not None:
                buckets[_bucket(key)][key] = {"etag": info.etag, "size": info.size, "document": document}
        try:
            with ThreadPoolExecutor(AT_ONCE, "bundles") as pool:
                list(pool.map(lambda bucket: self._put(bucket, buckets[bucket], records), buckets))
        except TrainerError as error:
            log.info("records are not kept together: %s", error)

    def _put(self, bucket: str, new: Mapping[str, Any], records: Mapping[str, ObjectInfo]) -> None:
        before = self._bundle(bucket)
        kept = {key: entry for key, entry in before.items() if key in records and _same(entry, records[key])}
        content = json.dumps({"version": VERSION, "records": {**kept, **new}}, ensure_ascii=False)
        self._store.write_bytes(self._at(bucket), content.encode())

    def _bundle(self, bucket: str) -> dict[str, Any]:
        try:
            content = json_of(self._store.read_bytes(self._at(bucket)))
            return dict(content["records"]) if content["version"] == VERSION else {}
        except (MissingObjectError, ValueError, KeyError, TypeError):
            return {}

    def _at(self, bucket: str) -> str:
        return layout.join(self._prefix, f"{bucket}.json")


def few(keys: Iterable[str]) -> bool:
    """Whether so few records are missing in the bundles that it is not worth writing them."""
    return sum(1 for _ in keys) < WORTH


def _bucket(key: str) -> str:
    return key[:BUCKET_DIGITS]


def _same(entry: Any, info: ObjectInfo) -> bool:
    try:
        return bool(
            entry["etag"] == info.etag and entry["size"] == info.size and isinstance(entry["document"], dict)
        )
    except (KeyError, TypeError):
        return False
