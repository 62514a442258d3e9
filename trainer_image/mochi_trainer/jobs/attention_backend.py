"""The attention backend of a run, checked on the shapes that the run will compute."""

from __future__ import annotations

import os

import torch

from mochi_api.resolved import buckets
from mochi_api.runfile import RunFile
from mochi_api.sizes import Bucket
from mochi_trainer.jobs.sampling import Settings
from mochi_trainer.model.attention_choice import VARIABLE, Shape, choose
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.model.params import DiTParams
from mochi_trainer.parallel.group import Group
from mochi_trainer.presets import preset_named
from mochi_trainer.vae import latent_shape

_TILE = 128
"""Rows that kernels take at a time; half a tile left over is a length at which some have failed."""


def training_backend(run: RunFile, device: torch.device, dtype: torch.dtype, group: Group) -> Backend:
    """Checked forward and backward, in each size of the clips: with the longest caption, without one, and with half a tile left over.

    The same on all ranks, which call together: the first that every one of them can use, in the order of rank 0. Raises
    InvalidInputError when MOCHI_ATTENTION names no backend, DeviceUnavailableError when a GPU has none.
    """
    params = preset_named(run.model.preset).dit
    sizes = buckets(run.preprocessing)
    lengths = sorted({each for size in sizes for each in _lengths(params, size)})
    return choose(
        [_shape(params, length, context=group.context) for length in lengths],
        device,
        dtype,
        environ={VARIABLE: group.from_first(os.environ.get(VARIABLE, ""))},
        agreed=lambda good: not group.any(not good),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def sampling_backend(settings: Settings, dtype: torch.dtype) -> Backend:
    """Checked forward only; on a GPU also for guidance, which puts prompt and empty prompt in one masked batch.

    Raises InvalidInputError when MOCHI_ATTENTION names no backend, DeviceUnavailableError when a GPU has none.
    """
    params = preset_named(settings.preset).dit
    longest = sum(_tokens(params, settings.frames, settings.height, settings.width))
    shapes = [_shape(params, longest)]
    if settings.device.type == "cuda":
        shapes.append(_shape(params, longest, batch=2, masked=True))
    return choose(shapes, settings.device, dtype, gradients=False)


def _lengths(params: DiTParams, size: Bucket) -> tuple[int, int, int]:
    visual, text = _tokens(params, size.frames, size.height, size.width)
    return visual, visual + (_TILE // 2 - visual) % _TILE, visual + text


def _tokens(params: DiTParams, frames: int, height: int, width: int) -> tuple[int, int]:
    """Visual tokens, and the most text tokens, of a video in frames and pixels."""
    latent_frames, rows, columns = latent_shape(frames, height, width)
    return latent_frames * rows * columns // params.patch**2, params.text_tokens


def _shape(
    params: DiTParams, tokens: int, *, batch: int = 1, masked: bool = False, context: int = 1
) -> Shape:
    heads = max(1, params.heads // context)
    return Shape(batch=batch, tokens=tokens, heads=heads, width=params.head_width, masked=masked)
