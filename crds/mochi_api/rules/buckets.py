"""The rules on `preprocessing.buckets`: each size obeys what the section's own one does, and is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mochi_api.rules.clips import PIXELS_480P
from mochi_api.rules.limits import GUIDED, LORA_FRAMES, guided
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import BucketSpec, FineTuneSpec

_FIELD = "spec.preprocessing.buckets"
_BUCKETS = "self.preprocessing.buckets"
_OWN = "self.preprocessing"
_SAME = "b.frames == {0}.frames && b.width == {0}.width && b.height == {0}.height"


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


BUCKETS: Sequence[Rule] = (
    _each(
        "frames must be 1, or 1 more than a multiple of 6",
        cel="b.frames % 6 == 1",
        wrong=lambda _spec, bucket: bucket.frames % 6 != 1,
    ),
    _each(
        f"frames must be at most {LORA_FRAMES} with mode lora and limits Guide (limits: Memory allows what the GPUs hold)",
        cel=f"!{GUIDED} || b.frames <= {LORA_FRAMES}",
        wrong=lambda spec, bucket: guided(spec) and bucket.frames > LORA_FRAMES,
    ),
    _each(
        f"width x height must be at most {PIXELS_480P} pixels (848x480)",
        cel=f"b.width * b.height <= {PIXELS_480P}",
        wrong=lambda _spec, bucket: bucket.width * bucket.height > PIXELS_480P,
    ),
    _each(
        "must not repeat a size, nor that of frames, width and height beside it",
        cel=f"{_BUCKETS}.exists_one(c, {_SAME.format('c')}) && !({_SAME.format(_OWN)})",
        wrong=_repeated,
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
