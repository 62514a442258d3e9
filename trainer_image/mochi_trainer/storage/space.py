"""Room on the local disk, asked for before a large file is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from mochi_trainer.errors import DiskFullError

GIB = 1 << 30


def require_space(folder: Path, need: int, what: str) -> None:
    """Raise DiskFullError, with need and free, when fewer than `need` bytes are free where `folder` is or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise DiskFullError(f"{what} needs {need / GIB:.3g} GiB, {folder} has {free / GIB:.3g} GiB free")
