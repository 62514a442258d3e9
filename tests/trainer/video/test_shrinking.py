"""Pictures that are converted and shrunk some rows at a time are, bit by bit, those that are made of whole planes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mochi_trainer.video import shrinking
from mochi_trainer.video.colours import Converter
from mochi_trainer.video.framing import Framing, framing
from mochi_trainer.video.rendering import Renderer
from mochi_trainer.video.shrinking import ROWS, Band, Shrinker, in_bands

SUBSAMPLED = [
    "yuv420p", "yuvj420p", "yuv422p", "yuv440p", "yuv411p", "nv12", "nv16",
    "yuv420p10le", "yuv422p10le", "yuv440p10le", "p010le", "p210le", "yuv420p12le", "yuv422p12le", "yuv420p16le",
]  # fmt: skip
WHOLE = ["yuyv422", "uyvy422", "yuv444p", "yuv410p", "yuva420p", "rgb24", "gbrp", "gray"]
Planes = list[NDArray[np.uint8]]


def frame_of(name: str, width: int, height: int, seed: int = 0) -> Any:
    """Noise in any format: all that is in a plane, whatever it stands for."""
    frame: Any = av.VideoFrame(width, height, name)
    draws = np.random.default_rng(seed)
    bits = frame.format.components[0].bits
    for plane in frame.planes:
        if bits == 8:
            numbers = np.frombuffer(plane, np.uint8)
            numbers[:] = draws.integers(0, 256, len(numbers))
        else:
            deep = np.frombuffer(plane, np.uint16)
            shift = 16 - bits if name.startswith("p") else 0
            deep[:] = draws.integers(0, 1 << bits, len(deep)) << shift
    frame.pts, frame.time_base = 0, Fraction(1, 30)
    return frame


def together(bands: Iterator[Band]) -> Planes:
    """The planes of bands, which have to come in order and without a gap."""
    parts: list[list[NDArray[np.uint8]]] = [[], [], []]
    there = 0
    for top, planes in bands:
        assert top == there
        assert len(planes[0]) <= ROWS
        there += len(planes[0])
        for kept, plane in zip(parts, planes, strict=True):
            kept.append(plane.copy())
    return [np.concatenate(kept) for kept in parts]


class TestConverting:
    @pytest.mark.parametrize("name", SUBSAMPLED)
    @pytest.mark.parametrize("chroma", ["", "left", "topleft", "bottom"])
    @pytest.mark.parametrize("height", [64, 120, 182, 1080])
    def test_bands_are_the_planes_of_the_whole(self, name: str, chroma: str, height: int) -> None:
        frame = frame_of(name, 320, height)
        bands = Converter(chroma).in_bands(frame)
        assert bands is not None
        for band, plane in zip(together(bands), Converter(chroma).colours(frame).planes, strict=True):
            assert np.array_equal(band, plane)

    @pytest.mark.parametrize("matrix", [1, 2, 4, 5, 7, 9])
    @pytest.mark.parametrize("full", [False, True])
    def test_with_every_matrix_and_range(self, matrix: int, full: bool) -> None:
        frame = frame_of("yuv420p10le", 128, 802)
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        bands = Converter("left").in_bands(frame)
        assert bands is not None
        for band, plane in zip(together(bands), Converter("left").colours(frame).planes, strict=True):
            assert np.array_equal(band, plane)

    def test_frames_of_several_sizes_go_through_one_converter(self) -> None:
        converter = Converter("topleft")
        for seed, (width, height) in enumerate([(128, 128), (128, 256), (64, 128), (128, 128)]):
            frame = frame_of("yuv420p", width, height, seed)
            bands = converter.in_bands(frame)
            assert bands is not None
            whole = converter.colours(frame).planes
            assert all(map(np.array_equal, together(bands), whole))

    @pytest.mark.parametrize("name", WHOLE)
    def test_others_are_converted_as_a_whole(self, name: str) -> None:
        assert Converter().in_bands(frame_of(name, 128, 128)) is None

    @pytest.mark.parametrize("height", [62, 129])
    def test_low_and_odd_ones_are_converted_as_a_whole(self, height: int) -> None:
        assert Converter().in_bands(frame_of("yuv420p", 128, height)) is None

    def test_hdr_is_converted_as_a_whole(self) -> None:
        frame = frame_of("yuv420p10le", 128, 128)
        frame.color_trc = 16
        assert Converter().in_bands(frame) is None


ratios = st.sampled_from([Fraction(n, d) for d in (1, 2, 4) for n in range(d, 9 * d // 2 + 1)])


class TestShrinking:
    @settings(max_examples=25, deadline=None)
    @given(
        across=ratios,
        down=ratios,
        size=st.sampled_from([(256, 256), (432, 240), (64, 480), (96, 84), (96, 73)]),
        margins=st.tuples(*[st.integers(0, 70)] * 4),
        rows=st.integers(1, ROWS),
    )
    def test_it_does_not_matter_how_many_rows_come_at_once(
        self,
        across: Fraction,
        down: Fraction,
        size: tuple[int, int],
        margins: tuple[int, int, int, int],
        rows: int,
    ) -> None:
        left, top, right, bottom = margins
        size = (size[0], size[1] if (size[1] * down).denominator == 1 else size[1] // 4 * 4)
        wide, high = int(across * size[0]), int(down * size[1])
        box = Framing(left=left, top=top, right=left + wide, bottom=top + high, width=size[0], height=size[1])
        draws = np.random.default_rng(rows)
        shape = (top + high + bottom, left + wide + right)
        planes = [draws.integers(0, 256, shape, dtype=np.uint8) for _ in range(3)]
        parted = ((at, [plane[at : at + rows] for plane in planes]) for at in range(0, shape[0], rows))
        shrinker = Shrinker(box, 3)
        first = shrinker.picture(in_bands(planes)).copy()
        assert np.array_equal(shrinker.picture(parted), first)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shrinking, "PART", 1 << 20)
            assert np.array_equal(Shrinker(box, 3).picture(in_bands(planes)), first)

    @pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "yuv422p10le"])
    @pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (720, 1280), (1696, 1080)])
    def test_a_picture_of_bands_is_that_of_the_whole(
        self, name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        frame = frame_of(name, *size)
        made = Renderer(848, 480, 1.0, Converter("left")).picture(frame)
        monkeypatch.setattr(Converter, "in_bands", lambda _self, _frame: None)
        assert np.array_equal(Renderer(848, 480, 1.0, Converter("left")).picture(frame), made)

    def test_a_picture_is_made_of_bands_where_it_can_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def whole(_self: Converter, _frame: Any) -> Any:
            raise AssertionError("converted as a whole")

        monkeypatch.setattr(Converter, "colours", whole)
        assert Renderer(848, 480, 1.0, Converter()).picture(frame_of("yuv420p10le", 1920, 1080)).shape == (
            480,
            848,
            3,
        )

    def test_a_result_is_not_overwritten_by_the_next_one(self) -> None:
        shrinker = Shrinker(framing(1280, 720, 640, 360), 3)
        first = shrinker.picture(in_bands([np.full((720, 1280), 200, np.uint8)] * 3))
        kept = first.copy()
        shrinker.picture(in_bands([np.zeros((720, 1280), np.uint8)] * 3))
        assert np.array_equal(first, kept)
