"""What a clip is recognised by: for eight of its pictures a hash of their coarse structure, and small copies of them.

Shapes: K = `PICTURES`, S = `SIDE`; a clip is (T, H, W, 3) RGB uint8 of any size.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mochi_trainer.footage.likeness import Floats, Frames, luma_in_parts

PICTURES = 8
"""Pictures of a clip, from the middles of as many equal parts: the same of a copy whatever its rate."""

SIDE = 24
"""Rows and columns of the small copies: 4.6 KB a clip, 46 MB for 10,000."""

BITS = 8
"""A hash has `BITS` x `BITS` bits, one for each of the coarsest cosines of a picture."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Of one clip."""

    hashes: NDArray[np.uint64]
    """(K,)"""

    mirrored: NDArray[np.uint64]
    """(K,), of the clip as a mirror shows it."""

    pictures: Frames
    """(K, S, S), luma."""


def signature(clip: Frames) -> Signature:
    """Of a clip (T, H, W, 3) with at least one picture; raise ValueError for none."""
    if not len(clip):
        raise ValueError("a clip needs at least 1 picture, got 0")
    return signature_of({number: small(clip[number]) for number in recognised_by(len(clip))}, len(clip))


def recognised_by(count: int) -> list[int]:
    """The numbers of the pictures, of `count`, that a signature is made of, in order; fewer than `PICTURES` where they
    repeat."""
    return sorted(set(_chosen(count)))


def signature_of(pictures: Mapping[int, Frames], count: int) -> Signature:
    """As `signature`, of a clip of `count` pictures, by small copies of those that `recognised_by` names."""
    return _signature(np.stack([pictures[number] for number in _chosen(count)]))


def as_text(made: Signature) -> str:
    """A signature as ASCII, 6 KB."""
    return base64.b64encode(made.pictures.tobytes()).decode()


def from_text(text: str) -> Signature:
    """What `as_text` made; raise ValueError for anything else."""
    data = base64.b64decode(text, validate=True)
    return _signature(np.frombuffer(data, np.uint8).reshape(PICTURES, SIDE, SIDE))


def _signature(pictures: Frames) -> Signature:
    return Signature(_hashes(pictures), _hashes(pictures[:, :, ::-1]), pictures)


def _chosen(count: int) -> list[int]:
    chosen: list[int] = ((np.arange(PICTURES) + 0.5) / PICTURES * count).astype(int).tolist()
    return chosen


def small(picture: Frames) -> Frames:
    """The copy (S, S), luma, of a picture (H, W, 3)."""
    grey = np.empty(picture.shape[:2], np.uint8)
    for part, levels in luma_in_parts(picture):
        grey[part] = np.rint(levels, out=levels)
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX))


def _cosines() -> Floats:
    """(BITS, S): rows 0 to BITS - 1 of the discrete cosine transform, type II."""
    rows, columns = np.arange(BITS)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * rows * (2 * columns + 1) / (2 * SIDE)).astype(np.float32)


_COSINES = _cosines()


def _hashes(pictures: Frames) -> NDArray[np.uint64]:
    """(K, S, S) to (K,): which coarse cosines are stronger than the median one; not changed by light and contrast."""
    coarse = (_COSINES @ pictures.astype(np.float32) @ _COSINES.T).reshape(len(pictures), -1)[:, 1:]
    bits = coarse > np.median(coarse, axis=1, keepdims=True)
    packed = np.packbits(np.pad(bits, ((0, 0), (0, 1))), axis=1)
    return packed.view(np.uint64)[:, 0]
