"""Which caption belongs to which clip, by their names alone."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from mochi_trainer.storage import ObjectInfo

OF_OTHER_TOOLS = frozenset({".caption", ".captions", ".cap", ".prompt", ".tags", ".text", ".md"})
"""Suffixes of files that hold one clip's caption, for another tool."""
TABLES = frozenset({".jsonl", ".json", ".csv", ".tsv", ".parquet"})
"""Suffixes of files that may hold the captions of many clips."""
LISTS = frozenset({"prompts.txt", "prompt.txt", "captions.txt", "labels.txt"})
"""Names of files with one caption a line."""


class Captions:
    """The caption files of a dataset.

    A clip's caption has its name but for the suffix. A letter that Unicode can write in two ways (`é` as one character,
    or as `e` and an accent, as macOS does) is the same letter; large and small letters are not.
    """

    def __init__(self, files: Sequence[ObjectInfo], others: Sequence[str] = ()) -> None:
        """`files` may be captions; of `others`, all further keys, some may have been meant for one."""
        best_last = sorted(files, key=lambda info: (info.key.endswith(".txt"), info.key.encode()))
        self._exact = {stem(info.key): info for info in best_last}
        self._composed = {_composed(name): info for name, info in sorted(self._exact.items(), reverse=True)}
        self._folded = {_folded(name): info for name, info in sorted(self._exact.items(), reverse=True)}
        self._named_otherwise = {_folded(stem(key)): key for key in others if suffix(key) in OF_OTHER_TOOLS}
        elsewhere = Counter(_bare(info.key) for info in files)
        self._elsewhere = {_bare(info.key): info.key for info in files if elsewhere[_bare(info.key)] == 1}
        keys = [*others, *(info.key for info in files)]
        self._collections = {_parent(key): key for key in sorted(keys, reverse=True) if is_collection(key)}

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
        """Key of a file that was meant for the clip's caption; empty for none.

        It is `video.mp4.txt`, one with other letters large or another suffix, the only one of that name in another folder,
        or a file with the captions of many clips.
        """
        found = self._exact.get(video) or self._folded.get(_folded(stem(video)))
        if found:
            return found.key
        return (
            self._named_otherwise.get(_folded(stem(video)))
            or self._elsewhere.get(_bare(video))
            or self._collections.get(_parent(video))
            or self._collections.get("")
            or ""
        )


def is_collection(key: str) -> bool:
    """Whether the file at `key` may hold the captions of many clips."""
    return suffix(key) in TABLES or key.rpartition("/")[2].lower() in LISTS


def stem(key: str) -> str:
    """`key` without the suffix of its name."""
    return _parted(key)[0]


def suffix(key: str) -> str:
    """The suffix of the name at `key` in small letters, with its dot; empty when it has none."""
    return _parted(key)[1].lower()


def _parent(key: str) -> str:
    return key.rpartition("/")[0]


def _bare(key: str) -> str:
    """The name at `key` without folders and suffix."""
    return _folded(stem(key).rpartition("/")[2])


def _parted(key: str) -> tuple[str, str]:
    name = key.rpartition("/")[2]
    before, dot, after = name.rpartition(".")
    return (key[: -len(after) - 1], f".{after}") if dot and before and after else (key, "")


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()
