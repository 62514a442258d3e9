"""The captions of a dataset's clips: which clips have one, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace

from mochi_api.clips import ClipReason
from mochi_api.outcomes import Item
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import (
    AccessDeniedError,
    ArchivedObjectError,
    ClipError,
    DatasetRejectedError,
    MissingObjectError,
)
from mochi_trainer.jobs.caption_files import is_collection
from mochi_trainer.jobs.caption_text import caption_text
from mochi_trainer.jobs.left_out import shown
from mochi_trainer.jobs.source_clips import SourceClip
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Store

CAPTION_BYTES = 64 * 1024
AT_ONCE = 16
"""Captions that are read at the same time."""


def captioned(
    source: Store, clips: Sequence[SourceClip], spec: PreprocessingSpec
) -> tuple[list[SourceClip], list[Item]]:
    """The clips to work on, each with its caption's text or its problem, and those that Skip leaves out.

    Every caption is read before any clip is: whether it has words is known only then. Raises MissingObjectError for a
    clip without a caption, or without a word in it, with missingCaption Fail; and what the store raises.
    """
    return chosen(source, with_captions(source, clips), spec)


def with_captions(
    source: Store, clips: Sequence[SourceClip], seconds: float | None = None
) -> list[SourceClip]:
    """The clips with what their captions say, or why those cannot be used; with `seconds` as many as come in that time.

    A clip whose caption was not read in time has no text. Raises what the store raises.
    """
    wanted = [clip for clip in clips if clip.caption and not clip.problem and clip.text is None]
    PROCESS.doing("reading captions")
    pool = ThreadPoolExecutor(AT_ONCE, "captions")
    try:
        futures = {clip.name: pool.submit(_with_caption, source, clip) for clip in wanted}
        wait(futures.values(), timeout=seconds, return_when=FIRST_EXCEPTION)
        read = {name: future.result() for name, future in futures.items() if future.done()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [read.get(clip.name, clip) for clip in clips]


def _with_caption(source: Store, clip: SourceClip) -> SourceClip:
    try:
        return replace(clip, text=read_caption(source, clip))
    except ClipError as error:
        return replace(clip, problem=str(error), reason=error.reason)
    except (AccessDeniedError, ArchivedObjectError) as error:
        return replace(clip, problem=f"its caption cannot be read: {error}", reason=ClipReason.UNREADABLE)
    except MissingObjectError:
        return replace(clip, caption=None)


def lacks(clip: SourceClip) -> ClipReason | None:
    """Why a clip counts as one without a caption; None when it has words, or another problem, or nobody has read it."""
    if clip.problem:
        return None
    if clip.caption is None:
        return ClipReason.MISSING_CAPTION
    return ClipReason.EMPTY_CAPTION if clip.text == "" or clip.caption.size == 0 else None


def chosen(
    source: Store, clips: Sequence[SourceClip], spec: PreprocessingSpec
) -> tuple[list[SourceClip], list[Item]]:
    """As `captioned`, of clips whose captions have been read."""
    bare = {clip.name: why for clip in clips if (why := lacks(clip))}
    if not bare or spec.missing_caption == "Empty":
        return list(clips), []
    if spec.missing_caption == "Skip":
        left_out = [_left_out(clip, bare[clip.name]) for clip in clips if clip.name in bare]
        return [clip for clip in clips if clip.name not in bare], left_out
    raise _missing(source, [clip for clip in clips if clip.name in bare])


def no_words(clip: SourceClip) -> str:
    """What is said of the caption of a clip that has none, or one without words."""
    if clip.caption:
        return f"{shown(clip.caption_key)} has no words"
    meant = f", but {shown(clip.misnamed_caption)} is there" if clip.misnamed_caption else ""
    return f"{shown(clip.caption_key)} does not exist{meant}"


def _left_out(clip: SourceClip, why: ClipReason) -> Item:
    return Item.of(clip.source.key, f"{no_words(clip)}, and missingCaption is Skip", why)


def _missing(source: Store, bare: Sequence[SourceClip]) -> MissingObjectError:
    first, more = bare[0], f" (and {len(bare) - 1} more clips)" if len(bare) > 1 else ""
    fault = "is empty" if first.caption else "does not exist"
    message = (
        f"clip {shown(first.source.key)} has no caption{more}: {source.address(first.caption_key)} {fault}"
    )
    other = "set preprocessing.missingCaption to Empty or Skip"
    misnamed = first.misnamed_caption
    if misnamed and is_collection(misnamed):
        return MissingObjectError(
            f"{message}, but {shown(misnamed)} is there, which is not read: each clip has its caption in a .txt file beside it",
            action=f"write the caption of each clip into a .txt file of its name, or {other}",
        )
    if misnamed:
        return MissingObjectError(
            f"{message}, but {shown(misnamed)} is there; rename it to {shown(first.caption_key)}",
            action=f"rename each such file (video.mp4.txt to video.txt), or {other}",
        )
    return MissingObjectError(
        f"{message}; write one, or set missingCaption to Empty or Skip",
        action=f"write the captions that are missing, or {other}",
    )


def no_captions(source: Store, clips: Sequence[SourceClip]) -> DatasetRejectedError:
    """With missingCaption Skip nothing is left of the dataset's `clips`."""
    return DatasetRejectedError(
        f"none of the {len(clips)} clips below {source.address()} has a caption",
        action="write captions, or set preprocessing.missingCaption to Empty, and apply again under a new name",
    )


def read_caption(source: Store, clip: SourceClip) -> str:
    """The caption on one line, empty when it has no words or is not there; raise ClipError when it cannot be used.

    Raises MissingObjectError when it was there when the dataset was listed and is not any more.
    """
    if clip.text is not None:
        return clip.text
    if clip.caption is None or clip.caption.size == 0:
        return ""
    name = shown(clip.caption.key)
    if clip.caption.size > CAPTION_BYTES:
        raise ClipError(
            f"the caption {name} has {clip.caption.size} bytes, at most {CAPTION_BYTES} are read",
            ClipReason.TOO_LARGE,
        )
    try:
        return caption_text(source.read_bytes(clip.caption.key))
    except ValueError as error:
        raise ClipError(f"the caption {name} is {error}", ClipReason.INVALID_CAPTION) from error
