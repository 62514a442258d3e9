"""Frames as the models see them, and how alike two videos are.

Shapes: T frames, H height, W width, C colours, B batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mochi_trainer.video.reading import Frames


def to_tensor(frames: Frames) -> Tensor:
    """(T, H, W, C) uint8 to float32 (B, C, T, H, W) with B = 1, in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def to_frames(video: Tensor) -> Frames:
    """(B, C, T, H, W) with B = 1, about [-1, 1], to uint8 (T, H, W, C), rounded and clamped."""
    scaled = (video[0].float().clamp(-1, 1) + 1) * 127.5
    frames: Frames = scaled.round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def psnr(original: Frames, copy: Frames) -> float:
    """Peak signal-to-noise ratio in dB over all pixels; 99 for equal videos."""
    error = float(np.mean((original.astype(np.float32) - copy.astype(np.float32)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))
