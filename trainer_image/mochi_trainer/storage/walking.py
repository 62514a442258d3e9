"""The files below a folder of a volume: linked folders are followed inside it, what cannot be read is left out and said."""

from __future__ import annotations

import errno
import heapq
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mochi_trainer.storage.file_names import key_of

log = logging.getLogger(__name__)

PARTIAL = ".partial-"
"""Folders of files that are still being written start with this; they are not listed."""

RECOVERED = "lost+found"
"""Where the check of a file system puts what it found without a name; it is root's alone."""

_NO_PERMISSION = "there is no permission to read it"
NO_PERMISSION = "without permission to be read"
TO_NOTHING = "linked to nothing"
OUT_OF_VOLUME = "linked out of the volume"
BACK = "linked back to a folder above"
NAMED_ALIKE = "with a name that is another's when it is written out"
_BROKEN = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class _Folder(NamedTuple):
    """A folder to list; those that sort first are listed first, so that a folder keeps the best of its names."""

    hidden: bool
    links: int
    """Links on the way to it."""
    path: str


@dataclass(slots=True)
class Walk:
    """All listings below one root; each thing that they leave out is said once."""

    root: Path
    volume: str = ""
    """Mount point of the volume; empty: that of `root`."""
    _said: set[str] = field(default_factory=set)
    unlisted: dict[str, str] = field(default_factory=dict)
    """Keys of what people put there and no listing gives, and what each is."""

    def files(self, folder: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Key, and what the file system knows of it, of each regular file below `folder`, in no order.

        A folder that is reached in several ways counts once, under its own name before that of a link. Nothing is
        there when `folder` is not; raises PermissionError only for `folder` itself, and OSError of a failing volume.
        """
        waiting = [_Folder(hidden=False, links=0, path=str(folder))]
        listed: set[tuple[int, int]] = set()
        while waiting:
            place = heapq.heappop(waiting)
            try:
                info = os.stat(place.path)  # noqa: PTH116 - Path cannot hold what scandir gives without a copy
                if (info.st_dev, info.st_ino) in listed:
                    self._leave_out(place.path, "it leads to a folder that is listed already")
                    continue
                listed.add((info.st_dev, info.st_ino))
                entries = _entries(place.path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                if place.path == str(folder):
                    raise
                self._leave_out(place.path, _NO_PERMISSION, NO_PERMISSION)
                continue
            yield from self._listed(place, entries, waiting)

    def _listed(
        self, place: _Folder, entries: list[os.DirEntry[str]], waiting: list[_Folder]
    ) -> Iterator[tuple[str, os.stat_result]]:
        """The files of one folder; its folders join those that are waiting."""
        names = {entry.name for entry in entries}
        for entry in entries:
            try:
                info = entry.stat()
            except PermissionError:
                unreadable = entry.path if entry.is_symlink() else place.path
                self._leave_out(unreadable, _NO_PERMISSION, NO_PERMISSION)
                continue
            except OSError as error:
                if error.errno not in _BROKEN:
                    raise
                self._leave_out(entry.path, "it is a link to nothing", TO_NOTHING)
                continue
            if key_of(entry.name) != entry.name and key_of(entry.name) in names:
                why = "its name is not UTF-8, and a file is called as it would be written"
                self._leave_out(entry.path, why, NAMED_ALIKE)
            elif stat.S_ISDIR(info.st_mode):
                self._wait(place, entry, waiting)
            elif stat.S_ISREG(info.st_mode) and self._stays(entry):
                yield key_of(os.path.relpath(entry.path, self.root)), info

    def _wait(self, place: _Folder, entry: os.DirEntry[str], waiting: list[_Folder]) -> None:
        if entry.name.startswith(PARTIAL):
            return
        if entry.name == RECOVERED:
            self._leave_out(entry.path, "it is the file system's own")
        elif self._stays(entry):
            hidden = place.hidden or entry.name.startswith(".")
            heapq.heappush(waiting, _Folder(hidden, place.links + entry.is_symlink(), entry.path))

    def _stays(self, entry: os.DirEntry[str]) -> bool:
        """Whether an entry is a link no more than it may be: inside the volume, and a folder's not to one above it."""
        if not entry.is_symlink():
            return True
        target, volume = os.path.realpath(entry.path), self.volume or volume_of(self.root)
        by_hand = volume == "/" and not entry.is_dir()
        if not by_hand and volume_of(Path(target)) != volume:
            self._leave_out(entry.path, f"it is a link out of the volume, to {key_of(target)}", OUT_OF_VOLUME)
            return False
        if entry.is_dir() and _inside(os.path.realpath(os.path.dirname(entry.path)), target):  # noqa: PTH120
            self._leave_out(entry.path, f"it is a link back to {key_of(target)}, which it lies in", BACK)
            return False
        return True

    def _leave_out(self, path: str, why: str, what: str = "") -> None:
        """Say it once; `what` is empty where nobody misses it."""
        if path not in self._said:
            self._said.add(path)
            if what:
                self.unlisted[key_of(os.path.relpath(path, self.root))] = what
            log.warning("left out file://%s: %s", key_of(os.path.abspath(path)), why)  # noqa: PTH100


def volume_of(path: Path) -> str:
    """The mount point of the volume that `path` lies on, links followed; `/` where it has none of its own."""
    place = os.path.realpath(path)
    while not os.path.ismount(place):
        place = os.path.dirname(place)  # noqa: PTH120
    return place


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
