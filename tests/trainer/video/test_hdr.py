"""HDR of known light comes out as an ordinary screen shows it: white bright, hues kept, nothing clipped."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
import pytest

from mochi_api.clips import ClipWarning
from mochi_trainer.video import Clip, Cut, read_clip
from mochi_trainer.video.hdr import hlg_scene, pq_light
from tests.trainer.video.movies import frame_of, write_movie

PQ, HLG, BT2020 = 16, 18, 9
SIDE = 64
KR, KB = 0.2627, 0.0593

TO_2020 = np.linalg.inv(
    np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
    )
)
"""Linear BT.709 to linear BT.2020 (BT.2087)."""


def pq_of(light: np.ndarray) -> np.ndarray:
    """The signal for cd/m2: the other direction of SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (np.asarray(light, float) / 10000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg_of(light: np.ndarray) -> np.ndarray:
    """The signal for cd/m2 on a display of 1000 cd/m2 (BT.2100): the inverse OOTF, then the OETF."""
    display = np.asarray(light, float) / 1000
    luminance = display @ np.array([0.2627, 0.6780, 0.0593])
    scene = display * np.where(luminance > 0, luminance, 1)[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def movie(path: Path, signal: np.ndarray, transfer: int, *, full: bool = False) -> Path:
    """A movie all of one colour: `signal` is R'G'B' in 0..1 of BT.2020, written in 10 bits."""
    red, green, blue = np.asarray(signal, float)
    luma = KR * red + (1 - KR - KB) * green + KB * blue
    chroma = [(blue - luma) / (2 - 2 * KB), (red - luma) / (2 - 2 * KR)]
    low, luma_range, chroma_range = (0, 1023, 1023) if full else (64, 876, 896)
    codes = [luma * luma_range + low, *(part * chroma_range + 512 for part in chroma)]
    planes = [
        np.full((SIDE >> shift, SIDE >> shift), round(float(code)), np.uint16)
        for code, shift in zip(codes, (0, 1, 1), strict=True)
    ]
    name = {PQ: "smpte2084", HLG: "arib-std-b67"}[transfer]
    options = {
        "x265-params": f"lossless=1:log-level=none:colorprim=bt2020:transfer={name}:colormatrix=bt2020nc"
        f":range={'full' if full else 'limited'}"
    }
    return write_movie(
        path,
        [frame_of(planes, "yuv420p10le")] * 3,
        codec="libx265",
        matrix=BT2020,
        transfer=transfer,
        primaries=BT2020,
        full=full,
        options=options,
    )


def read(path: Path) -> Clip:
    return read_clip(path, Cut(frames=1, least=1, fps=30, width=32, height=32))


def colour(path: Path) -> np.ndarray:
    frames = read(path).frames
    assert frames.std(axis=(0, 1, 2)).max() < 0.5
    return frames[0, 16, 16].astype(float)


@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.58), (HLG, 0.75)])
@pytest.mark.parametrize("full", [False, True])
def test_diffuse_white_is_bright_and_grey(tmp_path: Path, transfer: int, white: float, full: bool) -> None:
    seen = colour(movie(tmp_path / "a.mov", np.full(3, white), transfer, full=full))
    assert seen.min() >= 230
    assert seen.max() <= 240
    assert np.ptp(seen) <= 1


def test_the_clip_says_that_it_was_hdr(tmp_path: Path) -> None:
    found = read(movie(tmp_path / "a.mov", np.full(3, 0.58), PQ)).warnings
    assert found == {ClipWarning.HDR_CONVERTED: "HDR (PQ) was tone-mapped to BT.709"}


def literal(light: np.ndarray) -> np.ndarray:
    """What docs/explanation/preprocessing.md says of light in BT.709's primaries: cd/m2 to 0..255."""
    relative = np.maximum(light, 0) / 203
    brightest = relative.max()
    if brightest > 0.65:
        over = (brightest - 0.65) / 0.35
        relative = relative * (0.65 + 0.35 * over / (1 + over)) / brightest
    return 255 * relative ** (1 / 2.4)


LIGHTS = [0.5, 5.0, 26.0, 60.0, 100.0, 203.0, 400.0, 1000.0]


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("light", LIGHTS)
def test_greys_of_known_light(tmp_path: Path, transfer: int, light: float) -> None:
    grey = np.full(3, light)
    signal = pq_of(grey) if transfer == PQ else hlg_of(grey)
    step = np.abs(literal(grey * 1.02) - literal(grey)).max()  # ten bits are a step of up to 2 % in light
    assert np.abs(colour(movie(tmp_path / "a.mov", signal, transfer)) - literal(grey)).max() <= 1 + step


def test_brighter_is_never_darker_and_highlights_stay_apart(tmp_path: Path) -> None:
    seen = [colour(movie(tmp_path / f"{light}.mov", pq_of(np.full(3, light)), PQ)).mean() for light in LIGHTS]
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)
    assert seen[-1] < 255


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("hue", range(0, 360, 30))
@pytest.mark.parametrize(("saturation", "light"), [(1.0, 150.0), (0.5, 203.0), (0.8, 60.0)])
def test_hues_of_bt709_are_kept(
    tmp_path: Path, transfer: int, hue: int, saturation: float, light: float
) -> None:
    coded = np.array(colorsys.hsv_to_rgb(hue / 360, saturation, 1.0))
    linear = coded**2.4
    display = TO_2020 @ linear * light
    signal = pq_of(display) if transfer == PQ else hlg_of(display)
    seen = colour(movie(tmp_path / "a.mov", signal, transfer))
    expected = literal(linear * light)
    found = colorsys.rgb_to_hsv(*(seen / 255))[0] * 360
    wanted = colorsys.rgb_to_hsv(*(expected / 255))[0] * 360
    assert abs((found - wanted + 180) % 360 - 180) <= 10
    assert abs((found - hue + 180) % 360 - 180) <= 10


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("hue", range(0, 360, 60))
def test_hues_outside_bt709_are_kept(tmp_path: Path, transfer: int, hue: int) -> None:
    level = 0.5 if transfer == PQ else 0.7
    signal = np.array(colorsys.hsv_to_rgb(hue / 360, 1.0, 1.0)) * level
    red, green, blue = colour(movie(tmp_path / "a.mov", signal, transfer)) / 255
    found = colorsys.rgb_to_hsv(red, green, blue)[0] * 360
    assert abs((found - hue + 180) % 360 - 180) <= 10


def test_the_curves_are_those_of_the_standards() -> None:
    assert pq_light(np.array([0.0, 0.5080784, 0.5806889, 0.7518271, 1.0])) == pytest.approx(
        [0, 100, 203, 1000, 10000], rel=1e-4, abs=1e-9
    )
    assert hlg_scene(np.array([0.0, 0.5, 0.75, 1.0])) == pytest.approx(
        [0, 1 / 12, 0.26496, 1], rel=1e-3, abs=1e-9
    )
    assert 1000 * hlg_scene(np.array([0.75]))[0] ** 1.2 == pytest.approx(203, abs=1)


@pytest.mark.parametrize("transfer", [1, 2, 4, 13, 14, 15])
def test_sdr_is_left_alone_whatever_its_curve_is_called(tmp_path: Path, transfer: int) -> None:
    planes = [np.full((SIDE, SIDE), value, np.uint8) for value in (150, 120, 140)]
    options = {"x264-params": "colormatrix=bt709"}
    plain = write_movie(tmp_path / "a.mp4", [frame_of(planes, "yuv444p")] * 3, matrix=1, options=options)
    tagged = write_movie(
        tmp_path / "b.mp4", [frame_of(planes, "yuv444p")] * 3, matrix=1, transfer=transfer, options=options
    )
    assert np.array_equal(read(plain).frames, read(tagged).frames)
    assert read(tagged).warnings == {}
