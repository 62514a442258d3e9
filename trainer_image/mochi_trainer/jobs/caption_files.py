"""Which caption belongs to which clip, by their names alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from mochi_trainer.storage import ObjectInfo


class Captions:
    """The caption files of a dataset.

    A clip's caption has its name but for the suffix. A letter that Unicode can write in two ways (`é` as one character,
    or as `e` and an accent, as macOS does) is the same letter; large and small letters are not.
    """

    def __init__(self, files: Sequence[ObjectInfo]) -> None:
        best_last = sorted(files, key=lambda info: (info.key.endswith(".txt"), info.key.encode()))
        self._exact = {stem(info.key): info for info in best_last}
        self._composed = {_composed(name): info for name, info in sorted(self._exact.items(), reverse=True)}
        self._folded = {_folded(name): info for name, info in sorted(self._exact.items(), reverse=True)}

    def of(self, video: str) -> ObjectInfo | None:
        """The caption of the clip at that key."""
        return self._exact.get(stem(video)) or self._composed.get(_composed(stem(video)))

    def owners(self, videos: Sequence[str]) -> dict[str, str]:
        """For each caption that clips claim the clip that has it: one of just its name, or else the first of `videos`."""
        owners: dict[str, str] = {}
        for video in videos:
            caption = self.of(video)
            if caption is None:
                continue
            owner = owners.setdefault(caption.key, video)
            if stem(video) == stem(caption.key) != stem(owner):
                owners[caption.key] = video
        return owners

    def misnamed(self, video: str) -> str:
        """Key of a file that was meant for the clip's caption: `video.mp4.txt`, or other letters large; empty for none."""
        found = self._exact.get(video) or self._folded.get(_folded(stem(video)))
        return found.key if found else ""


def stem(key: str) -> str:
    """`key` without the suffix of its name."""
    return _parted(key)[0]


def suffix(key: str) -> str:
    """The suffix of the name at `key` in small letters, with its dot; empty when it has none."""
    return _parted(key)[1].lower()


def _parted(key: str) -> tuple[str, str]:
    name = key.rpartition("/")[2]
    before, dot, after = name.rpartition(".")
    return (key[: -len(after) - 1], f".{after}") if dot and before and after else (key, "")


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
