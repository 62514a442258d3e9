"""How many pictures a clip has from a moment on, told without decoding: as many as reading all of it gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Cut, Limits, Readers, encode_mp4, read_clip, shown_frames
from tests.trainer.video.clips import grey_levels, real_clip, turn_clockwise, with_edits, write_clip

EVERY = [33 * k for k in range(30)]
JUMPY = [0, 10, 15, 90, 95, 300, 420, 425, 430, 431, 700]


def written(path: Path, kind: str) -> Path:
    """A clip of a kind whose length is easily got wrong."""
    frames = {"jumpy": 11}.get(kind, 30)
    times = JUMPY if kind == "jumpy" else EVERY
    last = {"held": 900, "short": 5}.get(kind)
    reordered = {"bf": "3"} if kind == "reordered" else None
    write_clip(path, grey_levels(frames), times, last=last, options=reordered)
    edits: dict[str, list[tuple[int, int | None, float]]] = {
        "cut": [(400, 200, 1)],
        "late": [(250, None, 1), (700, 0, 1)],
        "gap": [(300, 0, 1), (250, None, 1), (300, 500, 1)],
        "frozen": [(300, 0, 1), (400, 330, 0)],
        "faster": [(400, 0, 2)],
        "again": [(300, 100, 1), (300, 100, 1)],
        "beyond": [(5000, 0, 1)],
    }
    if kind == "turned":
        turn_clockwise(path)
    return with_edits(path, edits[kind]) if kind in edits else path


KINDS = (
    "plain", "held", "short", "jumpy", "reordered", "turned", "cut", "late", "gap", "frozen", "faster", "again", "beyond",
)  # fmt: skip


@pytest.mark.parametrize("start", [0.0, 0.25, 0.6, 5.5])
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_as_reading_all_gives(tmp_path: Path, kind: str, start: float) -> None:
    path = written(tmp_path / "a.mp4", kind)
    for fps in (30, 12, 60):
        cut = Cut(frames=10_000, least=0, fps=fps, width=48, height=32, start_seconds=start)
        assert shown_frames(path, fps, start, Limits()) == len(read_clip(path, cut).frames)


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_real_clips_too(name: str) -> None:
    cut = Cut(frames=10_000, least=0, fps=24, width=48, height=32)
    assert shown_frames(real_clip(name), 24, 0.0, Limits()) == len(read_clip(real_clip(name), cut).frames)


@pytest.mark.parametrize("share", [0.95, 0.5])
def test_what_was_cut_off_has_no_length(tmp_path: Path, share: float) -> None:
    """The index is in front, so that most of the clip can be read."""
    path = tmp_path / "a.mp4"
    encode_mp4(grey_levels(30), path, fps=30)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ClipError) as caught, Readers(1) as readers:
        readers.run(shown_frames, path, 30, 0.0, Limits())
    assert caught.value.reason is ClipReason.CORRUPT
