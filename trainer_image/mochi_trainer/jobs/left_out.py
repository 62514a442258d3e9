"""Files of a dataset's folder that look like clips and are none: of the system, hidden, made by other tools."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mochi_api import layout
from mochi_trainer.jobs.caption_files import suffix
from mochi_trainer.jobs.file_kinds import STILLS
from mochi_trainer.jobs.finished import Finished

HIDDEN = "hidden"
SYSTEM = "in a folder of the system"
CACHE = "in another tool's cache"
RESULT = "a result of a run"
PICTURE = "still images beside a video of the same name"
CONVERTED = "beside the same clip as MP4 or MOV"

_FOLDERS: Mapping[str, str] = {
    "__macosx": SYSTEM,
    "lost+found": SYSTEM,
    "@eadir": SYSTEM,
    "#recycle": SYSTEM,
    "@recycle": SYSTEM,
    "@recently-snapshot": SYSTEM,
    "#snapshot": SYSTEM,
    "$recycle.bin": SYSTEM,
    "recycler": SYSTEM,
    "system volume information": SYSTEM,
    "cached_latents": CACHE,
    "cached_text_embeds": CACHE,
    "_controls": CACHE,
}
"""Folders in small letters: of macOS, Linux, Synology, QNAP, Windows, and of ai-toolkit and other fine-tuners."""

_CACHE = re.compile(r".*_cache")
"""Folders such as `_latent_cache`, `_t_e_cache` and `vae_cache`."""

_MADE: Mapping[str, re.Pattern[str]] = {
    "a reconstruction by Mochi's own fine-tuner": re.compile(r".*\.recon\.mp4"),
    "a preview by musubi-tuner": re.compile(r".+_\d{5}-\d{3}_\d{4}x\d{4}_[a-z0-9]+\.mp4"),
}
"""Videos that other fine-tuners leave beside the clips; their tensors (`.latent.pt`, `.npz`, `.safetensors`) are no videos."""


def why_no_clip(key: str) -> str | None:
    """What the file at `key` is when it is none of the user's clips or captions, whatever its name ends with."""
    *folders, name = key.casefold().split("/")
    if any(part.startswith(".") and part.strip(".") for part in (*folders, name)):
        return HIDDEN
    if layout.is_result(key):
        return RESULT
    for folder in folders:
        if kind := _FOLDERS.get(folder) or (CACHE if _CACHE.fullmatch(folder) else None):
            return kind
    return next((words for words, pattern in _MADE.items() if pattern.fullmatch(name)), None)


@dataclass(slots=True)
class LeftOut:
    """The videos and still images that were left out, and files and folders that could not be looked into, by what they are."""

    _keys: dict[str, list[str]] = field(default_factory=dict)
    _unlisted: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, key: str) -> None:
        """Count a video or a still image."""
        self._keys.setdefault(what, []).append(key)

    def add_unlisted(self, what: str, key: str) -> None:
        """Count a file, or a folder with whatever it has, that cannot be read."""
        self._unlisted.setdefault(what, []).append(key)

    @property
    def count(self) -> int:
        """How many videos and still images."""
        return _count(self._keys)

    def counted(self) -> str:
        """How many of each kind, such as `3 videos and 1 still image`."""
        images = sum(suffix(key) in STILLS for keys in self._keys.values() for key in keys)
        kinds = {"video": self.count - images, "still image": images}
        return " and ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds.items() if count)

    def words(self) -> str:
        """All of them on one line, with an example of each kind; empty when there are none."""
        return _words(self._keys)

    def unread(self) -> list[str]:
        """A sentence of what cannot be read, with an example of each kind; none of nothing."""
        if not self._unlisted:
            return []
        count = _count(self._unlisted)
        files = "file or folder" if count == 1 else "files or folders"
        return [f"{count} {files} cannot be read: {_words(self._unlisted)}"]

    def told(self) -> list[str]:
        """A sentence of the videos and still images, and one of what cannot be read."""
        verb = "is" if self.count == 1 else "are"
        others = [f"{self.counted()} {verb} left out: {self.words()}"] if self._keys else []
        return [*others, *self.unread()]

    def told_by(self, finished: Finished) -> Finished:
        """The end of the stage with them in its message, and in its details as `leftOut` and `unlisted` (kind, count)."""
        told = [re.sub(" (is|are) left out", " left out", sentence) for sentence in self.told()]
        if not told:
            return finished
        details = {"leftOut": _counts(self._keys), "unlisted": _counts(self._unlisted)}
        return replace(
            finished,
            message="; ".join([finished.message, *told]),
            details={**finished.details, **{name: counts for name, counts in details.items() if counts}},
        )


def _count(keys: Mapping[str, list[str]]) -> int:
    return sum(map(len, keys.values()))


def _counts(keys: Mapping[str, list[str]]) -> dict[str, int]:
    return {what: len(those) for what, those in sorted(keys.items())}


def _words(keys: Mapping[str, list[str]]) -> str:
    return ", ".join(
        f"{len(those)} {what} (such as {shown(those[0])})" for what, those in sorted(keys.items())
    )


SHOWN = 120
"""Characters of a key that a message shows, so that what it says of it is not cut off."""


def shown(key: str) -> str:
    """`key` for a message: whole, or its beginning and its end."""
    return key if len(key) <= SHOWN else f"{key[: SHOWN // 2]}…{key[-SHOWN // 2 :]}"
