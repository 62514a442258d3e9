"""An activation in host memory that the device sees tile by tile.

A tile is counted in latent pixels: it is the same part of the picture at every depth of the autoencoder, and neither a
down-sampling convolution nor an up-sampling block looks over its border.

Shapes: B batch; C channels; T, H, W frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mochi_trainer.vae.moments import Moments


class Tile(NamedTuple):
    """A rectangle of latent pixels; `bottom` and `right` are the first outside."""

    top: int
    bottom: int
    left: int
    right: int


def tiles(height: int, width: int, rows: int, columns: int) -> list[Tile]:
    """Tiles of `rows` x `columns` latent pixels that cover a frame once; those at its end may be smaller."""
    return [
        Tile(top, min(top + rows, height), left, min(left + columns, width))
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]


class Sheet:
    """Some frames (B, C, T, H, W) of an activation, with `scale` rows and columns to a latent pixel.

    With `moments` the statistics of the tiles that are put are counted, for a norm that comes next.
    """

    def __init__(self, values_BCTHW: Tensor, scale: int, moments: Moments | None = None) -> None:
        self.values, self.scale, self.moments = values_BCTHW, scale, moments

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return self.values.shape[2]

    def cut(self, tile: Tile, device: torch.device, halo: int = 0) -> Tensor:
        """A tile on `device`, contiguous, with `halo` rows and columns of its neighbours where it has any; read only."""
        rows, columns = self._place(tile, halo)
        return self.values[..., rows, columns].to(device).contiguous()

    def put(self, tile: Tile, part_BCTHW: Tensor) -> None:
        """Write a tile, and count it."""
        self.write(tile, part_BCTHW)
        if self.moments is not None:
            self.moments.add(part_BCTHW)

    def write(self, tile: Tile, part_BCTHW: Tensor) -> None:
        """Write a tile that is counted elsewhere."""
        rows, columns = self._place(tile)
        self.values[..., rows, columns] = part_BCTHW

    def ends(self, tile: Tile) -> tuple[int, int, int, int]:
        """1 for each side (left, right, top, bottom) where the frame ends with the tile, else 0."""
        height, width = (size // self.scale for size in self.values.shape[-2:])
        return int(tile.left == 0), int(tile.right == width), int(tile.top == 0), int(tile.bottom == height)

    def inner(self, tile: Tile, cut: Tensor) -> Tensor:
        """What was cut with a halo of 1, without the halo."""
        left, right, top, bottom = (1 - end for end in self.ends(tile))
        height, width = cut.shape[-2:]
        return cut[..., top : height - bottom, left : width - right]

    def _place(self, tile: Tile, halo: int = 0) -> tuple[slice, slice]:
        top, bottom, left, right = (side * self.scale for side in tile)
        return slice(max(0, top - halo), bottom + halo), slice(max(0, left - halo), right + halo)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """How the frames of a clip are cut, and where tiles are computed."""

    height: int
    """Latent rows."""
    width: int
    """Latent columns."""
    tiles: Sequence[Tile]
    device: torch.device
    groups: int
    """Groups of each norm."""

    def mapped(self, function: Callable[[Tensor], Tensor], source: Sheet) -> Sheet:
        """A new sheet, counted: a function that looks over no border of a latent pixel."""
        first, *others = self.tiles
        part = function(source.cut(first, self.device))
        scale = part.shape[-1] // (first.right - first.left)
        shape = (*part.shape[:3], self.height * scale, self.width * scale)
        target = Sheet(torch.empty(shape, dtype=part.dtype), scale, Moments(self.groups))
        target.put(first, part)
        for tile in others:
            target.put(tile, function(source.cut(tile, self.device)))
        return target
