"""Copies of clips with known originals: encoded again, scaled, mirrored, cropped, brightened; and clips that only look
related: the same place at another time, the same ground with other things before it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.trainer.footage.material import SIZE, Half, drawn_shot, real_shot, texture

KINDS = ("encoded", "scaled", "mirrored", "cropped", "brighter", "all")
LENGTH = 24
"""Frames of a clip."""


def originals(half: Half, drawn: int) -> dict[str, np.ndarray]:
    """Clips (24, H, W, 3) of which no two are copies: windows of each real shot in time, and drawn ones."""
    clips: dict[str, np.ndarray] = {}
    for name in half.real:
        frames = real_shot(name)
        for start in range(0, len(frames) - LENGTH + 1, LENGTH + 12):
            clips[f"{name}-{start}"] = frames[start : start + LENGTH]
    for seed in list(half.seeds)[:1] * (drawn > 0):
        for number in range(drawn):
            clips[f"drawn-{number}"] = drawn_shot(np.random.default_rng((seed, number)), LENGTH)
    return clips


def same_ground(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two clips (24, H, W, 3) of one still ground with another thing that moves before it in each."""
    rng = np.random.default_rng((seed, 77))
    ground = texture(rng, *SIZE)
    pair = []
    for _ in range(2):
        h, w = int(rng.integers(40, 90)), int(rng.integers(60, 130))
        patch, frames = texture(rng, h, w), np.repeat(ground[None], LENGTH, 0)
        place, speed = rng.uniform((0, 0), (SIZE[0] - h, SIZE[1] - w)), rng.uniform(-6, 6, 2)
        for k in range(LENGTH):
            top, left = np.clip(place + k * speed, 0, (SIZE[0] - h, SIZE[1] - w)).astype(int)
            frames[k, top : top + h, left : left + w] = patch
        pair.append(frames)
    return pair[0], pair[1]


def copied(frames: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A copy of (T, H, W, 3); "all" is everything at once."""
    out = frames
    if kind in {"mirrored", "all"} and (kind == "mirrored" or rng.random() < 0.5):
        out = out[:, :, ::-1]
    if kind in {"cropped", "all"}:
        out = _cropped(out, rng)
    if kind in {"brighter", "all"}:
        light = out.astype(np.float32) * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
        out = (255 * (np.clip(light, 0, 255) / 255) ** rng.uniform(0.8, 1.25)).astype(np.uint8)
    if kind in {"scaled", "all"}:
        out = _scaled(out, rng)
    return (
        _encoded(out, int(rng.integers(26, 38))) if kind in {"encoded", "all"} else np.ascontiguousarray(out)
    )


def _cropped(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = frames.shape[1:3]
    top, bottom, left, right = (rng.uniform(0, 0.05, 4) * (height, height, width, width)).astype(int)
    return frames[:, top : height - bottom, left : width - right]


def _scaled(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = (2 * int(rng.integers(40, 160)), 2 * int(rng.integers(30, 100)))
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames])


def _encoded(frames: np.ndarray, crf: int) -> np.ndarray:
    """As a lossy H.264 file gives it back."""
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": str(crf), "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for picture in frames:
                container.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24"))
                )
            container.mux(stream.encode())
        with av.open(str(Path(file.name))) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def pairs(half: Half, drawn: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(kind, original, copy) for each original and kind of copy."""
    rng = np.random.default_rng(half.seeds[0])
    for clip in originals(half, drawn).values():
        for kind in KINDS:
            yield kind, clip, copied(clip, kind, rng)
