"""Keys of the cache: equal keys mean equal content, whoever made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from mochi_api.clips import MAY_PASS
from mochi_api.outcomes import Item


def cache_key(stage: str, version: int, **parts: Any) -> str:
    """32 hexadecimal digits over the stage, the version of its code, and everything its output depends on."""
    document = json.dumps({"stage": stage, "version": version, **parts}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(document.encode()).hexdigest()[:32]


def key_of_list(key: str, failures: Iterable[Item], uid: str) -> str:
    """Where the list of a stage with these failures lies: at `key`, unless one of them may pass by itself.

    Such a list is for the run `uid` alone, so that the next run tries these clips again.
    """
    if not any(item.reason in MAY_PASS for item in failures):
        return key
    return cache_key("list", 1, key=key, run=uid)
