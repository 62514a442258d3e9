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
    """The videos and still images that were left out, by what they are."""

    _keys: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, key: str) -> None:
        """Count one."""
        self._keys.setdefault(what, []).append(key)

    @property
    def count(self) -> int:
        """How many."""
        return sum(map(len, self._keys.values()))

    def counted(self) -> str:
        """How many of each kind, such as `3 videos and 2 still images`."""
        images = sum(suffix(key) in STILLS for keys in self._keys.values() for key in keys)
        kinds = {"videos": self.count - images, "still images": images}
        return " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)

    def words(self) -> str:
        """All of them on one line, with an example of each kind; empty when there are none."""
        return ", ".join(
            f"{len(keys)} {what} (such as {shown(keys[0])})" for what, keys in sorted(self._keys.items())
        )

    def told_by(self, finished: Finished) -> Finished:
        """The end of the stage with them in its message, and as `leftOut` (kind, count) in its details."""
        if not self._keys:
            return finished
        counts = {what: len(keys) for what, keys in sorted(self._keys.items())}
        return replace(
            finished,
            message=f"{finished.message}; {self.counted()} left out: {self.words()}",
            details={**finished.details, "leftOut": counts},
        )


SHOWN = 120
"""Characters of a key that a message shows, so that what it says of it is not cut off."""


def shown(key: str) -> str:
    """`key` for a message: whole, or its beginning and its end."""
    return key if len(key) <= SHOWN else f"{key[: SHOWN // 2]}…{key[-SHOWN // 2 :]}"
