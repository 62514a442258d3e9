"""Why a clip cannot be used, and what is worth knowing of one that can: the one list that report, status and docs show."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class ClipReason(StrEnum):
    """Why one clip was left out."""

    TOO_SHORT = "TooShort"
    CORRUPT = "Corrupt"
    NO_VIDEO_STREAM = "NoVideoStream"
    UNSUPPORTED = "Unsupported"
    MISSING_CAPTION = "MissingCaption"
    EMPTY_CAPTION = "EmptyCaption"
    INVALID_CAPTION = "InvalidCaption"
    DUPLICATE_NAME = "DuplicateName"
    TOO_LARGE = "TooLarge"
    TIMEOUT = "Timeout"
    UNREADABLE = "Unreadable"


class ClipRow(NamedTuple):
    """One line of the list of reasons."""

    reason: ClipReason
    meaning: str
    cure: str
    """What a person does about it; follows "use clips that", or stands by itself."""


_R = ClipReason
CLIP_TABLE: tuple[ClipRow, ...] = (
    ClipRow(
        _R.TOO_SHORT,
        "it ends before the frames asked for, or with segments.select Cuts no shot has so many",
        "use longer clips or fewer preprocessing.frames, or a shorter size in preprocessing.buckets",
    ),
    ClipRow(
        _R.CORRUPT,
        "the file is cut off or damaged",
        "upload the clip again from its source, or leave it out",
    ),
    ClipRow(
        _R.NO_VIDEO_STREAM, "there is no moving picture in it", "leave the file out, or replace it by a video"
    ),
    ClipRow(
        _R.UNSUPPORTED,
        "its container or codec is not read",
        "convert the clip to MP4 with H.264",
    ),
    ClipRow(_R.MISSING_CAPTION, "no .txt file lies beside it", "write the caption"),
    ClipRow(_R.EMPTY_CAPTION, "its caption has no words", "write the caption"),
    ClipRow(
        _R.INVALID_CAPTION,
        "its caption is no plain text in UTF-8",
        "write the caption as plain text in UTF-8",
    ),
    ClipRow(_R.DUPLICATE_NAME, "another clip claims the same caption", "give each clip a name of its own"),
    ClipRow(
        _R.TOO_LARGE,
        "its picture, length or caption is beyond the limits",
        "make the clip smaller or shorter, as the message says",
    ),
    ClipRow(
        _R.TIMEOUT,
        "it took longer to decode than a clip may",
        "convert the clip, or leave it out",
    ),
    ClipRow(
        _R.UNREADABLE,
        "the storage does not give out the clip or its caption: refused, archived, or gone or replaced since the folder was listed",
        "let the credentials read it, restore it from the archive, or leave it out",
    ),
)
MAY_PASS = frozenset({_R.TIMEOUT, _R.UNREADABLE})
"""Reasons that need not hold for the next run: they are told to one run and never kept for others."""
CLIP_ROWS: dict[ClipReason, ClipRow] = {row.reason: row for row in CLIP_TABLE}


class ClipWarning(StrEnum):
    """What is worth a look at a clip that is used."""

    UPSCALED = "Upscaled"
    DARK = "Dark"
    STATIC = "Static"
    BLACK_BARS = "BlackBars"
    HDR_CONVERTED = "HdrConverted"
    DEINTERLACED = "Deinterlaced"
    CAPTION_TRUNCATED = "CaptionTruncated"
    NEAR_DUPLICATE = "NearDuplicate"


WARNING_MEANINGS: dict[ClipWarning, str] = {
    ClipWarning.UPSCALED: "the source is smaller than the training size",
    ClipWarning.DARK: "the picture is nearly black",
    ClipWarning.STATIC: "nothing moves",
    ClipWarning.BLACK_BARS: "black bars are part of the picture",
    ClipWarning.HDR_CONVERTED: "HDR (PQ or HLG) was tone-mapped to BT.709",
    ClipWarning.DEINTERLACED: "interlaced material was made progressive",
    ClipWarning.CAPTION_TRUNCATED: "the caption is longer than the text encoder reads",
    ClipWarning.NEAR_DUPLICATE: "another clip shows nearly the same",
}
