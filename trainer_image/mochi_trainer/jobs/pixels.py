"""How alike two videos are."""

from __future__ import annotations

import math

import numpy as np

from mochi_trainer.video.reading import Frames


def psnr(original: Frames, copy: Frames) -> float:
    """Peak signal-to-noise ratio in dB over all pixels; 99 for equal videos."""
    error = float(np.mean((original.astype(np.float32) - copy.astype(np.float32)) ** 2))
    return 99.0 if error == 0 else min(99.0, 10 * math.log10(255**2 / error))
