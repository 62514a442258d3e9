"""Which of several sizes a clip is brought to: the one that loses least of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mochi_api.clips import ClipReason
from mochi_api.sizes import Bucket
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.presentation import shown_frames
from mochi_trainer.video.rendering import upright_size
from mochi_trainer.video.streams import clip_errors, decoded, opened

ALIKE = 0.05
"""Shapes of which no more than this part of the picture is cut away beyond what the nearest one cuts count as equally near:
sizes are multiples of 16, so that two of one shape differ by a few pixels."""


def bucket_for(width: float, height: float, frames: int, buckets: Sequence[Bucket]) -> Bucket:
    """The size for a clip of so many upright pixels and `frames` frames at the rate of training.

    Of those that the clip can fill, the nearest in shape; of these the most frames, then the most pixels without
    enlarging (the fewest where all enlarge), then the earlier one. Where it can fill none, that of the fewest frames and, of
    these, the nearest in shape.
    """
    shortest = min(bucket.frames for bucket in buckets)
    most = max(frames, shortest)
    filled = [bucket for bucket in buckets if bucket.frames <= most]
    nearest = min(cut_away(width, height, bucket) for bucket in filled)
    near = [bucket for bucket in filled if cut_away(width, height, bucket) <= nearest + ALIKE]
    return max(near, key=lambda bucket: (bucket.frames, *_detail(width, height, bucket)))


def cut_away(width: float, height: float, bucket: Bucket) -> float:
    """The part of the picture that is lost where it fills the size of `bucket`."""
    ratio = (width / height) / (bucket.width / bucket.height)
    return 1 - min(ratio, 1 / ratio)


def _detail(width: float, height: float, bucket: Bucket) -> tuple[bool, int]:
    """What is better is larger."""
    pixels = bucket.width * bucket.height
    enlarged = max(bucket.width / width, bucket.height / height) > 1
    return not enlarged, -pixels if enlarged else pixels


def bucket_of_clip(path: Path, fps: int, start: float, buckets: Sequence[Bucket], limits: Limits) -> Bucket:
    """The size for the clip in a file, from `start` seconds on; only its first picture is decoded.

    Raises ClipError when the file cannot be opened or ends before its index does.
    """
    frames = shown_frames(path, fps, start, limits)
    with opened(path, limits) as clip, clip_errors("cannot be decoded"):
        first = next(iter(decoded(clip)), None)
        if first is None:
            raise ClipError("no picture in the video stream", ClipReason.CORRUPT)
        width, height = upright_size(first.held.frame, clip.pixel_aspect, clip.description.aperture)
    return bucket_for(width, height, frames, buckets)
