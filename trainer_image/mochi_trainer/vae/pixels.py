"""Frames as players show them, next to the video tensors of the autoencoder.

Shapes: T frames, H height, W width, C colours, B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """(T, H, W, C) uint8 to float32 (B, C, T, H, W) with B = 1, in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_frames(video: Tensor) -> NDArray[np.uint8]:
    """(B, C, T, H, W) with B = 1, about [-1, 1], to uint8 (T, H, W, C), rounded and clamped."""
    scaled = (video[0].float().clamp(-1, 1) + 1) * 127.5
    frames: NDArray[np.uint8] = scaled.round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames
