"""Passes over real files: what is found, and parts that begin and end at the frames that were asked for."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mochi_api.clips import ClipReason, ClipWarning
from mochi_trainer.errors import ClipError
from mochi_trainer.footage.passes import changes_of_shot, overview, parts_of_film, stills, write_part
from mochi_trainer.footage.segments import Stretch
from mochi_trainer.video import Limits, Probe, Readers, encode_mp4, probe, read_frames, shown_frames
from tests.bench.long_film import long_film
from tests.trainer.footage.material import BIKES_CUTS, bundled, decoded
from tests.trainer.video.clips import patched, turn_clockwise, with_edits, write_clip
from tests.trainer.video.jobs_of_readers import modules


def counted(count: int) -> np.ndarray:
    """(count, 32, 64, 3): frame k has the binary digits of k as white columns."""
    digits = np.arange(count)[:, None] >> np.arange(8) & 1
    return np.repeat(np.repeat(digits[:, None, :, None] * 255, 32, 1), 8, 2).repeat(3, 3).astype(np.uint8)


def numbered(path: Path, count: int, *, first: int = 0) -> Path:
    """A clip of `count` such frames, 40 ms each, the first one at `first` ms."""
    return write_clip(path, counted(count), [first + 40 * k for k in range(count)])


def numbers(frames: np.ndarray) -> list[int]:
    digits = frames[:, 16, 4::8, 0] > 128
    return [int(number) for number in digits @ (1 << np.arange(8))]


def part(path: Path, stretch: Stretch) -> tuple[np.ndarray, Probe]:
    written = path.with_suffix(".part.mp4")
    write_part(path, stretch, written)
    return read_frames(written), probe(written)


def test_cuts_of_a_film_are_told_in_seconds() -> None:
    found = overview(bundled("bikes.mp4"))
    assert (found.width, found.height, found.fps, found.seconds) == (640, 272, 25.0, 10.0)
    assert [change.start for change in found.changes] == pytest.approx([at / 25 for at in BIKES_CUTS])
    assert found.warnings == ()


def test_sixty_frames_a_second_have_the_same_cuts(tmp_path: Path) -> None:
    source = decoded("bikes.mp4")[:120]
    doubled = np.repeat(source, 2, 0)
    found = overview(write_clip(tmp_path / "a.mp4", doubled, [20 * k for k in range(240)]))
    assert [change.start for change in found.changes] == pytest.approx([1.2, 3.04])


def test_bars_of_a_large_film_are_told_in_its_own_pixels(tmp_path: Path) -> None:
    frames = np.repeat(np.repeat(decoded("bikes.mp4")[80:110], 5, 1), 5, 2)
    frames[:, :90] = frames[:, -90:] = 0
    (warning,) = overview(write_clip(tmp_path / "a.mp4", frames, [40 * k for k in range(30)])).warnings
    assert warning.kind is ClipWarning.BLACK_BARS
    assert "the picture is 1280x540 at (0, 90) of 1280x720" in warning.message


@pytest.mark.parametrize(("start", "seconds"), [(0.0, 0.4), (0.4, 0.2), (2.0, 1.0), (4.4, 0.4)])
def test_a_part_begins_and_ends_at_its_frames(tmp_path: Path, start: float, seconds: float) -> None:
    frames, found = part(numbered(tmp_path / "a.mp4", 120), Stretch(start, start + seconds))
    assert found.fps == 25
    assert numbers(frames) == list(range(round(start * 25), round((start + seconds) * 25)))


def test_a_part_counts_from_the_first_picture_whatever_its_time(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", 100, first=5000)
    assert numbers(part(path, Stretch(3.0, 3.2))[0]) == [75, 76, 77, 78, 79]


def test_a_part_is_upright_and_even(tmp_path: Path) -> None:
    frames, _ = part(turn_clockwise(numbered(tmp_path / "a.mp4", 30)), Stretch(0, 0.4))
    assert frames.shape == (10, 64, 32, 3)


def test_a_part_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ClipError, match=r"at most 600 frames \(24\.0 s at 25 fps\), 750 are asked for"
    ) as caught:
        part(numbered(tmp_path / "a.mp4", 30), Stretch(0, 30))
    assert caught.value.reason is ClipReason.TOO_LARGE


def test_a_part_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ClipError, match=r"25 frames at 25 fps take 1\.00 s, the clip has 5 \(0\.20 s\) after 1 s"
    ):
        part(numbered(tmp_path / "a.mp4", 30), Stretch(1.0, 2.0))


def test_stills_are_spread_over_a_clip_of_any_length(tmp_path: Path) -> None:
    assert numbers(stills(numbered(tmp_path / "a.mp4", 120), 4)) == pytest.approx([15, 45, 75, 105], abs=3)
    assert len(stills(numbered(tmp_path / "b.mp4", 2), 4)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\0" * 5000, b"\x1aE\xdf\xa3" + b"\0" * 100, b"\0\0\0\x18ftypisom" + b"\0" * 12]
)
def test_what_is_no_film_is_a_clip_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipError):
        overview(path)


def test_a_tag_that_is_no_utf8_is_no_matter(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mp4", 10)
    data = path.read_bytes()
    assert b"VideoHandler" in data
    path.write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert overview(path).seconds == 0.4


def test_a_film_that_was_cut_off_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode_mp4(decoded("bikes.mp4")[:100], path, fps=25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ClipError) as caught:
        overview(path)
    assert caught.value.reason is ClipReason.CORRUPT


HOSTILE = {
    "pixels": (
        lambda path: patched(path, b"stsd", 40, struct.pack(">HH", 65535, 65535)),
        {ClipReason.TOO_LARGE},
    ),
    "samples": (
        lambda path: patched(path, b"stts", 8, struct.pack(">I", 1_000_000_000)),
        {ClipReason.TOO_LARGE},
    ),
    "a frozen edit of eleven days": (
        lambda path: with_edits(path, [(300, 0, 1), (1_000_000_000, 330, 0)]),
        {None, ClipReason.TOO_LARGE},
    ),
}
"""What is done to a file, and why it is then refused; None where it may pass, in time."""


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_costs_a_reader_little(tmp_path: Path, kind: str) -> None:
    path = numbered(tmp_path / "a.mp4", 40)
    harm, reasons = HOSTILE[kind]
    harm(path)
    limits = Limits(wall_seconds=240, cpu_seconds=60)

    def refused(*call: Any) -> ClipReason | None:
        try:
            readers.run(*call)
        except ClipError as error:
            return error.reason
        return None

    with Readers(1, limits) as readers:
        assert refused(changes_of_shot, path, limits) in reasons
        assert refused(shown_frames, path, 30, 0.0, limits) in reasons
        assert refused(overview, path, limits) in reasons


def test_a_worker_that_looks_for_changes_of_shot_does_without_torch_and_credentials() -> None:
    with Readers(1) as readers:
        readers.run(changes_of_shot, bundled("bikes.mp4"), Limits())
        assert not {"torch", "boto3", "mochi_trainer.storage"} & set(readers.run(modules))


def test_a_film_that_is_looked_at_in_parts_has_the_same_changes(tmp_path: Path) -> None:
    """Shots of four seconds: each hard cut is found once, also beside where parts meet, at whatever frame that is."""
    path = long_film(tmp_path / "film.mp4", 40)
    whole = changes_of_shot(path, Limits())
    assert [change.start for change in whole] == pytest.approx(
        [4 * number for number in range(1, 10)], abs=0.01
    )
    second = whole[6].start  # the part that begins there needs what lies before it
    parts = [Stretch(0, 12.02), Stretch(12.02, second), Stretch(second, math.inf)]
    assert [change for part in parts for change in changes_of_shot(path, Limits(), part)] == list(whole)


def test_a_film_is_divided_into_parts_that_the_limits_of_a_clip_allow() -> None:
    assert parts_of_film(0) == parts_of_film(119.9) == [Stretch(0, math.inf)]
    assert parts_of_film(250) == [Stretch(0, 120), Stretch(120, 240), Stretch(240, math.inf)]
    assert len(parts_of_film(4 * 3600)) == 120


def test_the_changes_of_shot_do_not_depend_on_where_they_are_looked_for() -> None:
    with Readers(1) as readers:
        found = readers.run(changes_of_shot, bundled("bikes.mp4"), Limits())
    assert found == overview(bundled("bikes.mp4")).changes
    assert [change.start for change in found] == pytest.approx([at / 25 for at in BIKES_CUTS])


@pytest.mark.parametrize(
    ("width", "height", "fps", "seconds"),
    [
        (1280, 720, 30, 120),
        (3840, 2160, 30, 120),
        (3840, 2160, 60, 60),
        (7680, 4320, 60, 20),
        (640, 480, 0, 120),
    ],
)
def test_parts_of_a_heavy_film_are_shorter(width: int, height: int, fps: float, seconds: float) -> None:
    """HEVC of 4K at 60 a second and 19 Mbit/s takes a core here 427 s for two minutes; ten times the bits, more than there is."""
    source = Probe(width=width, height=height, fps=fps, seconds=0, codec="", pixel_aspect=1)
    parts = parts_of_film(240, source)
    assert [part.start for part in parts] == [seconds * number for number in range(round(240 / seconds))]
    assert [part.end for part in parts] == [*(part.start for part in parts[1:]), math.inf]
