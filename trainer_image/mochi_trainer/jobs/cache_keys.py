"""Keys of the cache: equal keys mean equal content, whoever made it."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def cache_key(stage: str, version: int, **parts: Any) -> str:
    """32 hexadecimal digits over the stage, the version of its code, and everything its output depends on."""
    document = json.dumps({"stage": stage, "version": version, **parts}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(document.encode()).hexdigest()[:32]
