"""Shrinking with libswscale is shrinking with Pillow, but for 1 in 255; where it would not be, Pillow does it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mochi_trainer.video import Cut, framing, read_clip, shrinking
from mochi_trainer.video.framing import Framing
from mochi_trainer.video.scaling import Scaler, is_near
from tests.trainer.video.clips import real_clip

USUAL = [
    ((1280, 720), (848, 480)),
    ((1920, 1080), (848, 480)),
    ((3840, 2160), (848, 480)),
    ((720, 1280), (480, 848)),
    ((1080, 1920), (480, 848)),
    ((854, 480), (424, 240)),
    ((1280, 720), (480, 480)),
]
KINDS = ["noise", "letters", "bars", "ramp"]


def literal(plane: NDArray[np.uint8], box: Framing) -> NDArray[np.uint8]:
    """Pillow's own picture of a box."""
    edges = (box.left, box.top, box.right, box.bottom)
    image = Image.fromarray(plane).resize((box.width, box.height), Image.Resampling.BICUBIC, box=edges)
    return np.asarray(image)


def pattern(kind: str, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """What filters find hard: everything at its extremes, in single pixels, in blocks, in lines; and a slope."""
    draws = np.random.default_rng(seed)
    down, across = np.indices((height, width))
    if kind == "noise":
        return (draws.integers(0, 2, (height, width)) * 255).astype(np.uint8)
    if kind == "letters":
        blocks = draws.integers(0, 2, (height // 5 + 1, width // 5 + 1)) * 255
        return blocks.repeat(5, 0).repeat(5, 1)[:height, :width].astype(np.uint8)
    if kind == "bars":
        return ((across // 3 + down // 7) % 2 * 255).astype(np.uint8)
    return (across * 255 // max(width - 1, 1)).astype(np.uint8)


def differences(plane: NDArray[np.uint8], box: Framing) -> NDArray[np.int64]:
    made = Scaler().picture([plane] * 3, box)[..., 0]
    assert made.dtype == np.uint8
    return np.abs(made.astype(np.int64) - literal(plane, box))


@pytest.mark.parametrize(("source", "target"), USUAL)
@pytest.mark.parametrize("kind", KINDS)
def test_usual_sizes_are_within_one_level_of_pillow(
    source: tuple[int, int], target: tuple[int, int], kind: str
) -> None:
    width, height = source
    box = framing(width, height, *target)
    assert is_near(box, height, width)
    found = differences(pattern(kind, height, width), box)
    assert found.max() <= 1
    assert (found > 0).mean() < 0.06


ratios = st.sampled_from([Fraction(n, d) for d in (1, 2, 4) for n in range(d, 6 * d + 1)])


@settings(max_examples=25)
@given(
    across=ratios,
    down=ratios,
    size=st.sampled_from([(256, 256), (432, 240), (208, 320)]),
    margins=st.tuples(*[st.integers(0, 9)] * 4),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
)
def test_every_round_ratio_is_within_one_level_of_pillow(
    across: Fraction,
    down: Fraction,
    size: tuple[int, int],
    margins: tuple[int, int, int, int],
    kind: str,
    seed: int,
) -> None:
    left, top, right, bottom = margins
    wide, high = int(across * size[0]), int(down * size[1])
    box = Framing(left=left, top=top, right=left + wide, bottom=top + high, width=size[0], height=size[1])
    assert differences(pattern(kind, top + high + bottom, left + wide + right, seed), box).max() <= 1


@given(
    source=st.tuples(st.integers(16, 900), st.integers(16, 900)),
    target=st.tuples(st.integers(4, 500), st.integers(4, 500)),
    aspect=st.sampled_from([1.0, 4 / 3, 0.9]),
    kind=st.sampled_from(KINDS),
)
def test_any_size_is_within_one_level_of_pillow(
    source: tuple[int, int], target: tuple[int, int], aspect: float, kind: str
) -> None:
    width, height = source
    box = framing(width, height, *target, pixel_aspect=aspect)
    found = differences(pattern(kind, height, width), box)
    assert found.max() <= (1 if is_near(box, height, width) else 0)


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ((1280, 960), (848, 480), "1280 / 848 has a remainder"),
        ((1080, 1920), (848, 480), "the window begins between two lines"),
        ((640, 360), (848, 480), "enlarged"),
        ((1696, 3840), (848, 480), "Pillow shrinks it down before across"),
        ((2145, 1200), (848, 480), "the window begins between two columns"),
        ((128, 72), (64, 36), "small"),
        ((4096, 2304), (512, 288), "8 times smaller"),
    ],
)
def test_other_sizes_are_pillows(source: tuple[int, int], target: tuple[int, int], why: str) -> None:
    width, height = source
    box = framing(width, height, *target)
    assert not is_near(box, height, width), why
    assert differences(pattern("noise", height, width), box).max() == 0


def test_deep_planes_are_pillows() -> None:
    plane = pattern("noise", 720, 1280).astype(np.uint16) * 257
    box = framing(1280, 720, 640, 360)
    assert is_near(box, 720, 1280)
    made = Scaler().picture([plane] * 3, box)[..., 0]
    assert np.array_equal(made, box.apply(plane))
    assert made.dtype.itemsize == 2


def test_turned_and_mirrored_planes_and_other_sizes_go_through_one_scaler() -> None:
    scaler = Scaler()
    for seed, (height, width) in enumerate([(512, 640), (768, 1024), (512, 640), (640, 512)]):
        plane = pattern("letters", height, width, seed)
        for seen in (plane, plane[:, ::-1], np.rot90(plane), np.rot90(plane, 2)[::-1]):
            high, wide = seen.shape
            box = framing(wide, high, wide // 2, high // 2)
            assert is_near(box, high, wide)
            made = scaler.picture([seen] * 3, box)[..., 0]
            assert np.abs(made.astype(int) - literal(np.ascontiguousarray(seen), box)).max() <= 1


def test_a_result_is_not_overwritten_by_the_next_one() -> None:
    scaler, box = Scaler(), framing(1280, 720, 640, 360)
    first = scaler.picture([pattern("ramp", 720, 1280)] * 3, box)
    kept = first.copy()
    scaler.picture([pattern("noise", 720, 1280)] * 3, box)
    assert np.array_equal(first, kept)


def test_a_size_that_is_off_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another filter stands for another version of either library."""
    monkeypatch.setitem(shrinking.HOW, "param1", "0.6")
    box = framing(1280, 720, 640, 360)
    assert not is_near(box, 720, 1284)
    assert differences(pattern("letters", 720, 1284), box).max() == 0


def test_real_pictures_hardly_differ() -> None:
    cut = Cut(frames=7, least=7, fps=30, width=1280, height=720)
    frames = read_clip(real_clip("bigbuckbunny.mp4"), cut).frames
    box = framing(1280, 720, 848, 480)
    for picture in frames:
        made = Scaler().picture(list(np.moveaxis(picture, -1, 0)), box)
        for channel in range(3):
            found = np.abs(made[..., channel].astype(int) - literal(picture[..., channel].copy(), box))
            assert found.max() <= 1
            assert (found > 0).mean() < 0.005
