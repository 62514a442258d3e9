"""Names of files as keys: what a file system calls a file, as text that JSON, logs and S3 can hold, and back."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")
_LONE_BYTE = re.compile("[\udc80-\udcff]")
_LONE = 0xDC00
"""Python shows the byte 0xE9 of a name that is not UTF-8 as the character U+DCE9 (PEP 383)."""


def key_of(name: str) -> str:
    r"""A name as the operating system gives it, with each byte that is no UTF-8 written out: `caf\xe9.mp4`."""
    return _LONE_BYTE.sub(lambda found: f"\\x{ord(found[0]) - _LONE:02x}", name)


def path_of(root: Path, key: str) -> Path:
    """Where `key` lies below `root`; a name that has the written-out bytes themselves wins over one that they stand for."""
    if "\\x" not in key:
        return root / key
    path = root
    for part in key.split("/"):
        meant = _ESCAPED.sub(lambda found: chr(_LONE + int(found[1], 16)), part)
        path /= part if os.path.lexists(path / part) or not os.path.lexists(path / meant) else meant
    return path
