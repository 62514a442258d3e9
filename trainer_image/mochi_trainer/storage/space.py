"""The local disk, asked before the work whose result goes there: for room, and whether it can be written to."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mochi_trainer.errors import DiskFullError, InvalidInputError, disk_full

GIB = 1 << 30


def require_space(folder: Path, need: int, what: str) -> None:
    """Raise DiskFullError, with need and free, when fewer than `need` bytes are free where `folder` is or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise DiskFullError(f"{what} needs {need / GIB:.3g} GiB, {folder} has {free / GIB:.3g} GiB free")


def require_folder(folder: Path, option: str) -> None:
    """Make `folder`, which `option` of a command names, where it is not there yet, and see that files can be written in it.

    Raises InvalidInputError when they cannot, DiskFullError when there is no room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if disk_full(error):
            raise DiskFullError(f"{option} {folder} has no room: {error.strerror}") from error
        raise InvalidInputError(
            f"{option} must be a folder that can be written, got {folder}: {error.strerror}",
            action=f"name another folder with {option}",
        ) from error
