"""PQ and HLG made into BT.709: what a player does with HDR on an ordinary screen.

Both curves are taken to light in cd/m2 (SMPTE ST 2084, ARIB STD-B67 as in BT.2100, HLG for a display of 1000 cd/m2).
BT.2408 puts diffuse white at 203 cd/m2, 58 % of PQ and 75 % of HLG. It is 1 here; what is darker than `KNEE` keeps its
light, what is brighter is bent so that diffuse white comes out at 235 of 255 and no highlight clips.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mochi_trainer.video.framing import Picture

WHITE = 203.0
"""Diffuse white in cd/m2 (BT.2408)."""

HLG_PEAK = 1000.0
HLG_GAMMA = 1.2
KNEE = 0.65
"""Light, diffuse white being 1, up to which nothing changes. White becomes (1 + KNEE) / 2."""

DISPLAY_GAMMA = 2.4
"""Of the screen on which BT.709 is shown (BT.1886)."""

LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Of BT.2020's primaries."""

STEPS = 4096
"""Of the table that encodes light; squared, so that the dark end has the finest steps."""

Floats = NDArray[np.float32]


class Transfer(StrEnum):
    """How the numbers of a picture stand for light."""

    SDR = "SDR"
    PQ = "PQ"
    HLG = "HLG"


class Primaries(StrEnum):
    """Whose red, green and blue a picture's are."""

    BT2020 = "BT.2020"
    P3 = "P3"
    BT709 = "BT.709"


TO_BT709: dict[Primaries, Floats] = {
    Primaries.BT2020: np.array(
        [
            [1.660491, -0.587641, -0.072850],
            [-0.124550, 1.132900, -0.008349],
            [-0.018151, -0.100579, 1.118730],
        ],
        np.float32,
    ),
    Primaries.P3: np.array(
        [[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]], np.float32
    ),
    Primaries.BT709: np.eye(3, dtype=np.float32),
}
"""Linear light to linear light (BT.2087, SMPTE EG 432-1), white D65."""


def tone_mapped(signal: NDArray[np.uint16], full: int, transfer: Transfer, primaries: Primaries) -> Picture:
    """A picture (H, W, 3) coded in PQ or HLG, `full` being the signal 1, as 8 bits of BT.709 in full range."""
    light = _light_table(transfer, full)[signal]
    if transfer is Transfer.HLG:
        light *= np.maximum(light @ LUMINANCE, 1e-6)[..., None] ** np.float32(HLG_GAMMA - 1)
        light *= np.float32(HLG_PEAK / WHITE)
    light = np.maximum(light @ TO_BT709[primaries].T, 0)
    return _encoded(light * _gain(light.max(axis=-1, keepdims=True)))


def pq_light(signal: NDArray[Any]) -> NDArray[np.float64]:
    """Light in cd/m2 of a PQ signal in 0..1 (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = np.clip(np.asarray(signal, np.float64), 0, 1) ** (1 / m2)
    light: NDArray[np.float64] = 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    return light


def hlg_scene(signal: NDArray[Any]) -> NDArray[np.float64]:
    """Scene light in 0..1 of an HLG signal in 0..1 (ARIB STD-B67)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    value = np.clip(np.asarray(signal, np.float64), 0, 1)
    return np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)


@cache
def _light_table(transfer: Transfer, full: int) -> Floats:
    """Light of each of the 65,536 numbers: for PQ in units of diffuse white, for HLG of the scene in 0..1."""
    signal = np.arange(1 << 16) / full
    light = pq_light(signal) / WHITE if transfer is Transfer.PQ else hlg_scene(signal)
    return light.astype(np.float32)


def _gain(brightest: Floats) -> Floats:
    """By how much each pixel is dimmed, so that its brightest channel stays below 1; all channels alike keep the hue."""
    over = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    bent = KNEE + (1 - KNEE) * over / (1 + over)
    return np.where(brightest > KNEE, bent / np.maximum(brightest, KNEE), 1).astype(np.float32)


def _encoded(light: Floats) -> Picture:
    index = np.sqrt(light) * np.float32(STEPS) + np.float32(0.5)
    picture: Picture = _code_table()[np.minimum(index, STEPS).astype(np.uint16)]
    return picture


@cache
def _code_table() -> Picture:
    light = (np.arange(STEPS + 1) / STEPS) ** 2
    codes: Picture = np.round(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8)
    return codes
