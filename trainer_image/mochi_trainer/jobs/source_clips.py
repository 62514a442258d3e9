"""What a dataset's folder holds: clips with their captions, in a fixed order and under names that are safe as keys."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mochi_api.runfile import Locations, RunFile
from mochi_api.spec import S3Spec
from mochi_trainer.errors import DatasetRejectedError
from mochi_trainer.storage import ObjectInfo, Store, open_store
from mochi_trainer.video.reading import convert_command

log = logging.getLogger(__name__)

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
    misnamed_caption: str = ""
    """Key of a file such as `video.mp4.txt`, whose writer meant it for the caption; empty where there is none."""

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
        SourceClip(
            name=name,
            source=info,
            caption=captions.get(_stem(info.key)),
            problem=_problem(info.key),
            misnamed_caption=captions[info.key].key if info.key in captions else "",
        )
        for info, name in zip(videos, clip_names([info.key for info in videos]), strict=True)
    ]


def dataset_objects(source: Store, run: RunFile) -> Iterator[ObjectInfo]:
    """What lies below the dataset, without what runs with this output have made: it is no data of the user's.

    Raises what the store raises.
    """
    results = results_below(source, run.locations, run.s3)
    left_out: Counter[str] = Counter()
    for info in source.list():
        prefix = next((prefix for prefix in results if info.key.startswith(prefix)), None)
        if prefix is None:
            yield info
        else:
            left_out[prefix] += 1
    for prefix, count in left_out.items():
        log.info("%d objects below %s are results of runs: left out", count, source.address(prefix))


def results_below(source: Store, locations: Locations, s3: S3Spec) -> list[str]:
    """Beginnings of keys in the dataset under which this run's cache, and the folders of all runs beside it, lie."""
    parent, _, _ = locations.run.rstrip("/").rpartition("/")
    runs = parent if parent.endswith("/runs") else locations.run
    root = _folder(source.address())
    folders = [_folder(open_store(address, s3).address()) for address in (locations.cache, runs)]
    return [folder.removeprefix(root) for folder in folders if folder.startswith(root) and folder != root]


def _folder(address: str) -> str:
    return address.rstrip("/") + "/"


def no_clips(source: Store, objects: Sequence[ObjectInfo]) -> DatasetRejectedError:
    """The dataset, of which these are all objects, has no video."""
    there = f"{len(objects)} other files, such as {objects[0].key}" if objects else "nothing is there"
    return DatasetRejectedError(
        f"no MP4 or MOV file below {source.address()}: {there}",
        action="upload clips there or correct dataset.source, and apply again under a new name",
    )


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
