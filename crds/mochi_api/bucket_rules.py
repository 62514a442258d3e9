"""The rules on `preprocessing.buckets`: each size obeys what the section's own one does, and is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mochi_api.address_rules import Rule, cel_message
from mochi_api.spec import BucketSpec, FineTuneSpec

_FIELD = "spec.preprocessing.buckets"
_BUCKETS = "self.preprocessing.buckets"
_OWN = "self.preprocessing"
_SAME = "b.frames == {0}.frames && b.width == {0}.width && b.height == {0}.height"


def bucket_rules(
    *, guided: Callable[[FineTuneSpec], bool], guided_cel: str, lora_frames: int, pixels: int
) -> tuple[Rule, ...]:
    """`guided`, and the same in CEL, say whether the guide's limit of `lora_frames` holds; `pixels` are those of a picture."""
    return (
        _each(
            "frames must be 1, or 1 more than a multiple of 6",
            cel="b.frames % 6 == 1",
            wrong=lambda _spec, bucket: bucket.frames % 6 != 1,
        ),
        _each(
            f"frames must be at most {lora_frames} with mode lora and limits Guide (limits: Memory allows what the GPUs hold)",
            cel=f"!{guided_cel} || b.frames <= {lora_frames}",
            wrong=lambda spec, bucket: guided(spec) and bucket.frames > lora_frames,
        ),
        _each(
            f"width x height must be at most {pixels} pixels (848x480)",
            cel=f"b.width * b.height <= {pixels}",
            wrong=lambda _spec, bucket: bucket.width * bucket.height > pixels,
        ),
        _each(
            "must not repeat a size, nor that of frames, width and height beside it",
            cel=f"{_BUCKETS}.exists_one(c, {_SAME.format('c')}) && !({_SAME.format(_OWN)})",
            wrong=lambda spec, bucket: _repeated(spec, bucket),
        ),
        Rule(
            path="spec.preprocessing.durationSeconds",
            cel=f"!has({_BUCKETS}) || size({_BUCKETS}) == 0 || !has({_OWN}.durationSeconds)",
            message=cel_message(
                "spec.preprocessing.durationSeconds must be left out with buckets, each of which keeps its own frames, got %s",
                f"{_OWN}.durationSeconds",
            ),
            broken=_duration,
        ),
    )


def _each(words: str, *, cel: str, wrong: Callable[[FineTuneSpec, BucketSpec], bool]) -> Rule:
    """A rule on every bucket; the message has the first one that breaks it."""
    text = (
        f"{_FIELD}{' ' if words.startswith('must') else ': '}{words}, got %dx%dx%d (frames x width x height)"
    )
    first = f"{_BUCKETS}.filter(b, !({cel}))[0]"

    def broken(spec: FineTuneSpec) -> str | None:
        found = _first(bucket for bucket in spec.preprocessing.buckets if wrong(spec, bucket))
        return None if found is None else text % (found.frames, found.width, found.height)

    return Rule(
        path=_FIELD,
        cel=f"!has({_BUCKETS}) || {_BUCKETS}.all(b, {cel})",
        message=cel_message(text, *(f"{first}.{name}" for name in ("frames", "width", "height"))),
        broken=broken,
    )


def _first(buckets: Iterable[BucketSpec]) -> BucketSpec | None:
    return next(iter(buckets), None)


def _repeated(spec: FineTuneSpec, bucket: BucketSpec) -> bool:
    own = spec.preprocessing
    return spec.preprocessing.buckets.count(bucket) > 1 or (
        (bucket.frames, bucket.width, bucket.height) == (own.frames, own.width, own.height)
    )


def _duration(spec: FineTuneSpec) -> str | None:
    own = spec.preprocessing
    if not own.buckets or own.duration_seconds is None:
        return None
    return (
        "spec.preprocessing.durationSeconds must be left out with buckets, each of which keeps its own frames, got "
        f"{own.duration_seconds:f}"
    )
