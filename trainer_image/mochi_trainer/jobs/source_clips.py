"""What a dataset's folder holds: clips with their captions, in a fixed order and under names that are safe as keys."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mochi_api import resolved
from mochi_api.clips import ClipReason
from mochi_api.runfile import Locations, RunFile
from mochi_api.spec import S3Spec
from mochi_trainer.errors import DatasetRejectedError
from mochi_trainer.jobs.caption_files import Captions, stem, suffix
from mochi_trainer.jobs.file_kinds import ARCHIVES, CAPTION, CLIPS, OTHER_VIDEO, STILLS
from mochi_trainer.jobs.left_out import CONVERTED, PICTURE, LeftOut, shown, why_no_clip
from mochi_trainer.storage import ObjectInfo, Store, open_store
from mochi_trainer.video.reading import convert_command

log = logging.getLogger(__name__)

NAME_LENGTH = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceClip:
    """One video file of the dataset, or one still image."""

    name: str
    """Unique, of letters, digits, dots, dashes and underscores, never starting with an underscore."""

    source: ObjectInfo
    caption: ObjectInfo | None
    problem: str = ""
    """Why it cannot be used whatever it contains; empty when nothing is known against it."""
    reason: ClipReason = ClipReason.UNSUPPORTED
    """The word for `problem`."""
    misnamed_caption: str = ""
    """Key of a file such as `video.mp4.txt` or `metadata.jsonl`, whose writer meant it for the caption; empty for none."""
    text: str | None = None
    """What the caption says, on one line; None as long as nobody has read it."""

    @property
    def caption_key(self) -> str:
        """Where its caption is, or should be."""
        return self.caption.key if self.caption else f"{stem(self.source.key)}{CAPTION}"


def source_clips(
    objects: Iterable[ObjectInfo],
    *,
    stills: bool = False,
    most: int = 0,
    left_out: LeftOut | None = None,
) -> list[SourceClip]:
    """The video files among `objects` in the order of their keys, the first `most` of them unless 0.

    With `stills` still images count too, but for one beside a video of its name: that is a picture of it.
    An object that a listing repeats, as some servers do between two pages, is one.
    Files in sub-folders count; hidden ones, the system's and what other tools made do not. Videos of another container
    are listed with their problem, unless the same clip lies beside them as MP4 or MOV: those are counted in `left_out`.
    Of clips that claim one caption the first has it.
    """
    own = list({info.key: info for info in objects if why_no_clip(info.key) is None}.values())
    captions = Captions(
        [info for info in own if suffix(info.key) == CAPTION],
        [info.key for info in own if suffix(info.key) != CAPTION],
    )
    converted = left_out if left_out is not None else LeftOut()
    wanted = CLIPS | OTHER_VIDEO | (STILLS if stills else frozenset())
    videos = sorted(
        _without_converted([info for info in own if suffix(info.key) in wanted], converted),
        key=lambda info: info.key.encode(),
    )
    owners = captions.owners([info.key for info in videos])
    chosen = videos[: most or None]
    return [
        _source_clip(info, name, captions, owners)
        for info, name in zip(chosen, clip_names([info.key for info in chosen]), strict=True)
    ]


def _source_clip(info: ObjectInfo, name: str, captions: Captions, owners: Mapping[str, str]) -> SourceClip:
    caption, misnamed = captions.of(info.key), captions.misnamed(info.key)
    problem, reason = _problem(info.key), ClipReason.UNSUPPORTED
    if not problem and caption and owners[caption.key] != info.key:
        reason = ClipReason.DUPLICATE_NAME
        problem = (
            f"{shown(owners[caption.key])} has the caption {shown(caption.key)} too, and only that clip is used; "
            "give this one, and a caption for it, another name"
        )
    return SourceClip(
        name=name,
        source=info,
        caption=caption,
        problem=problem,
        reason=reason,
        misnamed_caption="" if caption or misnamed in owners else misnamed,
    )


def _without_converted(videos: Sequence[ObjectInfo], left_out: LeftOut) -> Iterator[ObjectInfo]:
    """The videos but those whose conversion, as the message of such a file asks for it, lies beside them; and the stills."""
    readable = {stem(info.key) for info in videos if suffix(info.key) in CLIPS}
    moving = {stem(info.key) for info in videos if suffix(info.key) not in STILLS}
    for info in videos:
        if suffix(info.key) in STILLS:
            if stem(info.key) in moving:
                left_out.add(PICTURE, info.key)
            else:
                yield info
        elif suffix(info.key) in CLIPS or stem(info.key) not in readable:
            yield info
        else:
            left_out.add(CONVERTED, info.key)


def dataset_objects(source: Store, run: RunFile, left_out: LeftOut | None = None) -> Iterator[ObjectInfo]:
    """What lies below the dataset, without what is none of the user's data: results of runs, hidden files, other tools'.

    Videos among it, and still images where the run takes those, are counted in `left_out`, and so is what the store finds and
    cannot read. Raises what the store raises.
    """
    results = results_below(source, run.locations, run.s3)
    of_runs: Counter[str] = Counter()
    others = left_out if left_out is not None else LeftOut()
    wanted = CLIPS | OTHER_VIDEO | (STILLS if resolved.buckets_of_stills(run.preprocessing) else frozenset())
    for info in source.list():
        prefix = next((prefix for prefix in results if info.key.startswith(prefix)), None)
        if prefix is not None:
            of_runs[prefix] += 1
        elif what := why_no_clip(info.key):
            if suffix(info.key) in wanted:
                others.add(what, info.key)
        else:
            yield info
    for prefix, count in of_runs.items():
        log.info("%d objects below %s are results of runs: left out", count, source.address(prefix))
    _tell(source, others)


def _tell(source: Store, others: LeftOut) -> None:
    """Count what the store could not read, and log all that was left out."""
    for key, what in source.unlisted():
        if _may_hold_clips(key):
            others.add_unlisted(what, key)
    for sentence in others.told():
        log.warning("below %s: %s", source.address(), sentence)


def _may_hold_clips(key: str) -> bool:
    """Whether what cannot be read might be missed: a clip, a caption, or a folder, of which the name says nothing."""
    kind = suffix(key)
    files = CLIPS | OTHER_VIDEO | STILLS | {CAPTION}
    return why_no_clip(key) is None and (kind in files or not re.fullmatch(r"\.[a-z0-9]{1,4}", kind))


def results_below(source: Store, locations: Locations, s3: S3Spec) -> list[str]:
    """Beginnings of keys in the dataset under which this run's cache, and the folders of all runs beside it, lie."""
    parent, _, _ = locations.run.rstrip("/").rpartition("/")
    runs = parent if parent.endswith("/runs") else locations.run
    root = _folder(source.address())
    folders = [_folder(open_store(address, s3).address()) for address in (locations.cache, runs)]
    return [folder.removeprefix(root) for folder in folders if folder.startswith(root) and folder != root]


def _folder(address: str) -> str:
    return address.rstrip("/") + "/"


def no_clips(
    source: Store, objects: Sequence[ObjectInfo], left_out: LeftOut | None = None, *, stills: bool = False
) -> DatasetRejectedError:
    """The dataset, of which these are all objects but those that were left out, has no video, and no still image either.

    Without `stills` such images are of no use, which is said where there are some.
    """
    files = f"{len(objects)} other file{'s' * (len(objects) > 1)}"
    there = f"{files}, such as {objects[0].key}" if objects else _nothing(source)
    if left_out is not None:
        if left_out.count:
            verb = "does" if left_out.count == 1 else "do"
            there = f"{there} but {left_out.counted()} that {verb} not count: {left_out.words()}"
        there = "; ".join([there, *left_out.unread()])
    images = sum(suffix(info.key) in STILLS for info in objects)
    take = (
        f", or add a size of 1 frame to preprocessing.buckets for the {images} still image{'s' * (images > 1)}"
        if images
        else ""
    )
    return DatasetRejectedError(
        f"no MP4 or MOV file{' and no still image' if stills else ''} below {source.address()}: {there}",
        action=f"upload clips there or correct dataset.source{take}, and apply again under a new name",
    )


def _nothing(source: Store) -> str:
    name = source.address().rstrip("/").rpartition("/")[2]
    if suffix(name) in CLIPS | OTHER_VIDEO | ARCHIVES:
        return f"nothing is there; {shown(name)} is the name of a file, and a dataset is the folder with the clips in it"
    return "nothing is there"


def clip_names(keys: Sequence[str]) -> list[str]:
    """A name for each key: what is readable of it, and a piece of its hash where two would be equal.

    No name is another one, also when large letters are small; none has two underscores in a row.
    """
    plain = [_plain_name(key) for key in keys]
    count = Counter(name.lower() for name in plain)
    taken = {name for name, times in count.items() if times == 1}
    return [
        name if count[name.lower()] == 1 else _hashed(name, key, taken)
        for key, name in zip(keys, plain, strict=True)
    ]


def _hashed(name: str, key: str, taken: set[str]) -> str:
    """`name` with a piece of the hash of `key` that no name before has, which is added to `taken`."""
    for number in itertools.count():
        text = f"{key}/{number}" if number else key
        made = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        if made.lower() not in taken:
            break
    taken.add(made.lower())
    return made


def _plain_name(key: str) -> str:
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", stem(key)).strip("_.-")
    return name[:NAME_LENGTH] or "clip"


def _problem(key: str) -> str:
    if suffix(key) in CLIPS | STILLS:
        return ""
    return f"{suffix(key)} files are not read, only MP4, MOV and M4V; convert it: {convert_command(key)}"
