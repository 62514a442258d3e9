"""The captions of a dataset's clips: which clips have one, and what it says."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from mochi_api.clips import ClipReason
from mochi_api.spec import PreprocessingSpec
from mochi_trainer.errors import ClipError, DatasetRejectedError, MissingObjectError
from mochi_trainer.jobs.source_clips import SourceClip
from mochi_trainer.storage import Store

CAPTION_BYTES = 64 * 1024
SHOWN = 40
"""Characters of a caption that a message shows."""

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def captioned(
    source: Store, clips: Sequence[SourceClip], spec: PreprocessingSpec
) -> tuple[list[SourceClip], list[str]]:
    """The clips to work on, and the keys of those that missingCaption Skip leaves out.

    Raises MissingObjectError for a clip without a caption with missingCaption Fail.
    """
    bare = [clip for clip in clips if not clip.problem and (clip.caption is None or clip.caption.size == 0)]
    if not bare or spec.missing_caption == "Empty":
        return list(clips), []
    if spec.missing_caption == "Skip":
        names = {clip.name for clip in bare}
        return [clip for clip in clips if clip.name not in names], [clip.source.key for clip in bare]
    raise _missing(source, bare)


def _missing(source: Store, bare: Sequence[SourceClip]) -> MissingObjectError:
    first, more = bare[0], f" (and {len(bare) - 1} more clips)" if len(bare) > 1 else ""
    fault = "is empty" if first.caption else "does not exist"
    message = f"clip {first.source.key} has no caption{more}: {source.address(first.caption_key)} {fault}"
    other = "set preprocessing.missingCaption to Empty or Skip"
    if misnamed := first.misnamed_caption:
        return MissingObjectError(
            f"{message}, but {misnamed} lies beside it; rename it to {first.caption_key}",
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
    """The caption on one line, empty when there is none; raise ClipError when it cannot be used."""
    if clip.caption is None:
        return ""
    if clip.caption.size > CAPTION_BYTES:
        raise ClipError(
            f"the caption {clip.caption.key} has {clip.caption.size} bytes, at most {CAPTION_BYTES} are read",
            ClipReason.TOO_LARGE,
        )
    try:
        return caption_text(source.read_bytes(clip.caption.key))
    except ValueError as error:
        raise ClipError(
            f"the caption {clip.caption.key} is {error}: save it as UTF-8", ClipReason.INVALID_CAPTION
        ) from error


def caption_text(data: bytes) -> str:
    """The text of a caption's file on one line; raise ValueError, which says what it is, when it is not UTF-8."""
    if data.startswith(_UTF_16):
        raise ValueError("UTF-16")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start}){_guess(data)}") from error
    if "\0" in text:
        raise ValueError(f"not UTF-8 text (byte {data.index(0)} is zero, as in UTF-16)")
    return " ".join(text.split())


def _guess(data: bytes) -> str:
    """What the bytes look like in the 8-bit set that most editors of the West wrote; nothing when they do not."""
    try:
        text = " ".join(data.decode("cp1252").split())
    except UnicodeDecodeError:
        return ""
    return f" but probably Latin-1, in which it reads {text[:SHOWN]!r}" if text.isprintable() else ""
