"""What a dataset's folder holds: clips with their captions, in a fixed order and under names that are safe as keys."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mochi_trainer.storage import ObjectInfo
from mochi_trainer.video.reading import convert_command

CLIPS = frozenset({".mp4", ".mov"})
OTHER_VIDEO = frozenset(
    {".webm", ".mkv", ".avi", ".m4v", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".3gp", ".ogv", ".gif"}
)
CAPTION = ".txt"
NAME_LENGTH = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceClip:
    """One video file of the dataset."""

    name: str
    """Unique, of letters, digits, dots, dashes and underscores, never starting with an underscore."""

    source: ObjectInfo
    caption: ObjectInfo | None
    problem: str = ""
    """Why it cannot be used whatever it contains; empty when nothing is known against it."""

    @property
    def caption_key(self) -> str:
        """Where its caption is, or should be."""
        return self.caption.key if self.caption else str(PurePosixPath(self.source.key).with_suffix(CAPTION))


def source_clips(objects: Iterable[ObjectInfo], *, most: int = 0) -> list[SourceClip]:
    """The video files among `objects` in the order of their keys, the first `most` of them unless 0.

    Files in sub-folders count; hidden ones do not. Videos that are not MP4 or MOV are listed with their problem.
    """
    visible = [info for info in objects if not PurePosixPath(info.key).name.startswith(".")]
    captions = {_stem(info.key): info for info in visible if _suffix(info.key) == CAPTION}
    videos = sorted(
        (info for info in visible if _suffix(info.key) in CLIPS | OTHER_VIDEO),
        key=lambda info: info.key.encode(),
    )[: most or None]
    return [
        SourceClip(name=name, source=info, caption=captions.get(_stem(info.key)), problem=_problem(info.key))
        for info, name in zip(videos, clip_names([info.key for info in videos]), strict=True)
    ]


def clip_names(keys: Sequence[str]) -> list[str]:
    """A name for each key: what is readable of it, and a piece of its hash where two would be equal."""
    plain = [_plain_name(key) for key in keys]
    count = Counter(name.lower() for name in plain)
    return [
        name if count[name.lower()] == 1 else f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        for key, name in zip(keys, plain, strict=True)
    ]


def _plain_name(key: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", _stem(key)).strip("_.-")
    return name[:NAME_LENGTH] or "clip"


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))


def _suffix(key: str) -> str:
    return PurePosixPath(key).suffix.lower()


def _problem(key: str) -> str:
    if _suffix(key) in CLIPS:
        return ""
    return f"{_suffix(key)} files are not read, only MP4 and MOV; convert it: {convert_command(key)}"
