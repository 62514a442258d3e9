"""Rules on the size of training clips, how long they are, and how many are cut of one."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.base import DECIMAL
from mochi_api.rules.limits import GUIDED, LORA_FRAMES, guided
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec

PIXELS_480P = 848 * 480

_FRAMES = "self.preprocessing.frames"
_FPS = "self.preprocessing.fps"
_WIDTH = "self.preprocessing.width"
_HEIGHT = "self.preprocessing.height"
_SECONDS = "self.preprocessing.durationSeconds"
_HOLDS = f"int(double({_SECONDS}) * double({_FPS}) + 0.000001)"
_IS_LENGTH = f"({DECIMAL.cel(_SECONDS)} && double({_SECONDS}) > 0.0)"
"""Of what is no number, or no length, the field's own rules speak."""
_SEGMENTS = "self.preprocessing.segments"
_TAKES_FIRST = f"(!has({_SEGMENTS}.select) || {_SEGMENTS}.select == 'First')"


def _frame_grid(spec: FineTuneSpec) -> str | None:
    frames = spec.preprocessing.frames
    if frames % 6 == 1:
        return None
    lower = frames - (frames + 5) % 6
    return (
        f"spec.preprocessing.frames must be 1 more than a multiple of 6, got {frames}; "
        f"the nearest are {lower} and {lower + 6}"
    )


def _lora_frames(spec: FineTuneSpec) -> str | None:
    frames = spec.preprocessing.frames
    if not guided(spec) or frames <= LORA_FRAMES:
        return None
    return (
        f"spec.preprocessing.frames must be at most {LORA_FRAMES} with mode lora and limits Guide "
        f"(limits: Memory allows what the GPUs hold), got {frames}"
    )


def _pixels(spec: FineTuneSpec) -> str | None:
    width, height = spec.preprocessing.width, spec.preprocessing.height
    if width * height <= PIXELS_480P:
        return None
    return (
        f"spec.preprocessing.width x height must be at most {PIXELS_480P} pixels (848x480), "
        f"got {width}x{height} = {width * height}"
    )


def frames_that_fit(duration_seconds: float, fps: int) -> int:
    """The largest number of frames, 1 more than a multiple of 6, that lasts at most `duration_seconds`; 0 if none."""
    whole = int(duration_seconds * fps + 1e-6)
    return whole - (whole + 5) % 6 if whole >= 1 else 0


def _duration(spec: FineTuneSpec) -> str | None:
    prep = spec.preprocessing
    if prep.duration_seconds is None:
        return None
    seconds = float(prep.duration_seconds)
    if seconds * prep.fps + 1e-6 >= prep.frames:
        return None
    return (
        f"spec.preprocessing.durationSeconds must be at least frames / fps = {prep.frames} / {prep.fps} s, got "
        f"{prep.duration_seconds:f}, which holds {int(seconds * prep.fps + 1e-6)} frames; "
        f"the nearest number of frames that fits is {frames_that_fit(seconds, prep.fps)}"
    )


def _segments(spec: FineTuneSpec) -> str | None:
    asked = spec.preprocessing.segments
    if asked is None or asked.select != "First" or asked.max_per_clip in (None, 1):
        return None
    return (
        "spec.preprocessing.segments.maxPerClip must be 1 with select First (Even and Cuts take several), "
        f"got {asked.max_per_clip}"
    )


CLIPS: Sequence[Rule] = (
    Rule(
        path="spec.preprocessing.frames",
        cel=f"{_FRAMES} % 6 == 1 || {_FRAMES} < 7 || {_FRAMES} > 163",
        message=cel_message(
            "spec.preprocessing.frames must be 1 more than a multiple of 6, got %d; the nearest are %d and %d",
            _FRAMES,
            f"{_FRAMES} - ({_FRAMES} + 5) % 6",
            f"{_FRAMES} - ({_FRAMES} + 5) % 6 + 6",
        ),
        broken=_frame_grid,
    ),
    Rule(
        path="spec.preprocessing.frames",
        cel=f"!{GUIDED} || {_FRAMES} <= {LORA_FRAMES}",
        message=cel_message(
            f"spec.preprocessing.frames must be at most {LORA_FRAMES} with mode lora and limits Guide "
            "(limits: Memory allows what the GPUs hold), got %d",
            _FRAMES,
        ),
        broken=_lora_frames,
    ),
    Rule(
        path="spec.preprocessing.width",
        cel=f"{_WIDTH} * {_HEIGHT} <= {PIXELS_480P}",
        message=cel_message(
            f"spec.preprocessing.width x height must be at most {PIXELS_480P} pixels (848x480), got %dx%d = %d",
            _WIDTH,
            _HEIGHT,
            f"{_WIDTH} * {_HEIGHT}",
        ),
        broken=_pixels,
    ),
    Rule(
        path="spec.preprocessing.durationSeconds",
        cel=f"!has({_SECONDS}) || !{_IS_LENGTH} || double({_SECONDS}) * double({_FPS}) + 0.000001 >= double({_FRAMES})",
        message=cel_message(
            "spec.preprocessing.durationSeconds must be at least frames / fps = %d / %d s, got %s, which holds %d "
            "frames; the nearest number of frames that fits is %d",
            _FRAMES,
            _FPS,
            _SECONDS,
            _HOLDS,
            f"{_HOLDS} >= 1 ? {_HOLDS} - ({_HOLDS} + 5) % 6 : 0",
        ),
        broken=_duration,
    ),
    Rule(
        path="spec.preprocessing.segments.maxPerClip",
        cel=f"!has({_SEGMENTS}) || !has({_SEGMENTS}.maxPerClip) || {_SEGMENTS}.maxPerClip == 1 || !{_TAKES_FIRST}",
        message=cel_message(
            "spec.preprocessing.segments.maxPerClip must be 1 with select First (Even and Cuts take several), got %d",
            f"{_SEGMENTS}.maxPerClip",
        ),
        broken=_segments,
    ),
)
