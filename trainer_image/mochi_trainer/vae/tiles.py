"""Encode and decode a clip a few frames and one tile at a time, with the result that the whole clip would give.

Tiles that are computed by themselves and blended would differ: a norm would see the tile instead of the frame. So the
network is walked in passes that end where a norm needs statistics of whole frames. A pass computes tile after tile, with
one pixel of the neighbours around it for a convolution; between passes activations lie in host memory (`sheets`).

Shapes: B batch; C channels; T, H, W frames, rows, columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from mochi_trainer.vae.chunks import (
    CHUNK_FRAMES,
    CHUNK_LATENTS,
    Layer,
    advance,
    decode_chunked,
    encode_chunked,
    latent_chunks,
    sections,
    video_chunks,
)
from mochi_trainer.vae.decoder import Decoder, UpBlock
from mochi_trainer.vae.encoder import COLOURS, Encoder
from mochi_trainer.vae.latents import SPATIAL, Posterior, latent_shape, video_frames
from mochi_trainer.vae.layers import AttentionBlock, CausalConv, FrameNorm, ResidualBlock
from mochi_trainer.vae.moments import Moments
from mochi_trainer.vae.sheets import Grid, Sheet, Tile, tiles

PIXELS_PER_STRIP = 2**11
"""Pixels whose attention over time is computed at once, or one row of latent pixels."""

TileSize = tuple[int, int]
"""Rows and columns in pixels of the video."""


@torch.no_grad()
def encode_tiled(
    encoder: Encoder, video_BCTHW: Tensor, *, tile: TileSize, chunk_frames: int = CHUNK_FRAMES
) -> Posterior:
    """The posterior of a video (B, 3, F, H, W) as `encoder` gives it but for rounding, without gradients.

    The encoder's device holds the weights and one tile of `chunk_frames` frames, host memory the activations; keep the
    video there. A tile that covers the frame is the computation in chunks, bit for bit. Raises ValueError unless the
    sides of the tile are positive multiples of 8, and as `encode_chunked`.
    """
    frames, height, width = latent_shape(*video_BCTHW.shape[2:])
    weight = encoder.output_proj.weight
    grid = _grid(height, width, tile, weight.device, encoder.params.groups)
    if len(grid.tiles) == 1:
        return encode_chunked(encoder, video_BCTHW, chunk_frames=chunk_frames)
    chunks = [Sheet(part, SPATIAL) for part in video_chunks(video_BCTHW, chunk_frames)]
    for steps, attention in sections(encoder):
        advance(chunks, TiledContinuation(grid, *steps))
        if attention is not None:
            attend_tiled(chunks, attention, grid)
    shape = (len(video_BCTHW), weight.shape[0], frames, height, width)
    out = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    for chunk, part in zip(chunks, torch.split(out, [chunk.frames for chunk in chunks], dim=2), strict=True):
        for each in grid.tiles:
            normed = counted(chunk).normed(encoder.output_norm, chunk.cut(each, grid.device))
            Sheet(part, 1).put(each, encoder.gaussian(normed))
    return Posterior(*out.chunk(2, dim=1))


@torch.no_grad()
def decode_tiled(
    decoder: Decoder, z_BCTHW: Tensor, *, tile: TileSize, chunk_latents: int = CHUNK_LATENTS
) -> Tensor:
    """The video of un-normalised latents as `decoder` gives it but for rounding, in host memory, without gradients.

    The decoder's device holds the weights and one tile of `chunk_latents` latent frames, host memory the activations. A
    tile that covers the frame is the computation in chunks, bit for bit. Raises ValueError unless the sides of the tile
    are positive multiples of 8, and as `decode_chunked`.
    """
    batch, _, frames, height, width = z_BCTHW.shape
    weight = decoder.output_proj.weight
    grid = _grid(height, width, tile, weight.device, decoder.params.groups)
    if len(grid.tiles) == 1:
        return decode_chunked(decoder, z_BCTHW, chunk_latents=chunk_latents).cpu()
    shape = (batch, COLOURS, video_frames(frames), height * SPATIAL, width * SPATIAL)
    video = torch.empty(shape, dtype=weight.dtype)
    decode = TiledContinuation(grid, *decoder.blocks)
    done = 0
    for chunk in latent_chunks(z_BCTHW, chunk_latents):
        sheet = decode(Sheet(chunk.to(weight.dtype), 1))
        part = Sheet(video[:, :, done : done + sheet.frames], SPATIAL)
        for each in grid.tiles:
            part.put(each, decoder.colours(sheet.cut(each, grid.device)))
        done += sheet.frames
    return video


class TiledContinuation:
    """Applies layers to the chunks of one clip in turn, tile by tile; the counterpart of `chunks.Continuation`."""

    def __init__(self, grid: Grid, *steps: Layer) -> None:
        self._grid = grid
        self._steps = steps
        self._past: dict[CausalConv, Sheet] = {}
        self._first = True

    def __call__(self, chunk: Sheet) -> Sheet:
        """The next chunk after all layers. It may be the given one, overwritten."""
        for step in self._steps:
            chunk = self._through(step, chunk)
        self._first = False
        return chunk

    def _through(self, step: Layer, x: Sheet) -> Sheet:
        if isinstance(step, ResidualBlock):
            return self._residual(step, x)
        if isinstance(step, UpBlock):
            return self._grid.mapped(lambda part: self._expanded(step, part), self._through(step.blocks, x))
        if isinstance(step, nn.Sequential):
            for part in step:
                x = self._through(part, x)
            return x
        if isinstance(step, CausalConv):
            return self._grid.mapped(lambda part: self._strided(step, part), x)
        return self._grid.mapped(step, x)

    def _expanded(self, block: UpBlock, x_BCTHW: Tensor) -> Tensor:
        out = block.expanded(x_BCTHW)
        return out[:, :, block.expansion[0] - 1 :] if self._first else out

    def _strided(self, conv: CausalConv, x_BCTHW: Tensor) -> Tensor:
        """A convolution whose stride is its kernel: it carries nothing and looks over no border."""
        return conv(x_BCTHW) if self._first else conv.after(x_BCTHW[:, :, :0], x_BCTHW)

    def _residual(self, block: ResidualBlock, x: Sheet) -> Sheet:
        """The block without its attention, written over `x`."""
        norms = [part for part in block.stack if isinstance(part, FrameNorm)]
        convs = [part for part in block.stack if isinstance(part, CausalConv)]
        inner = Sheet(torch.empty_like(x.values), x.scale, Moments(self._grid.groups))
        self._half(norms[0], convs[0], x, inner)
        x.moments = Moments(self._grid.groups)
        self._half(norms[1], convs[1], inner, x, added=True)
        return x

    def _half(
        self, norm: FrameNorm, conv: CausalConv, source: Sheet, target: Sheet, *, added: bool = False
    ) -> None:
        """Norm, SiLU and convolution of `source`, written to `target` or added to it."""
        past = self._past.get(conv)
        shape = (*source.values.shape[:2], conv.kernel_size[0] - 1, *source.values.shape[3:])
        kept = Sheet(torch.empty(shape, dtype=source.values.dtype), source.scale)
        for tile in self._grid.tiles:
            out = self._convolved(conv, self._window(norm, source, tile, past, kept), source.ends(tile))
            target.put(tile, out.add_(target.cut(tile, self._grid.device)) if added else out)
            del out  # before the next tile is computed
        self._past[conv] = kept

    def _window(self, norm: FrameNorm, source: Sheet, tile: Tile, past: Sheet | None, kept: Sheet) -> Tensor:
        """A tile after norm and SiLU, with the neighbours' pixels and the frames that a convolution sees before it.

        `past` has the last frames of the chunk before, `kept` gets those of this one.
        """
        x = counted(source).normed(norm, source.cut(tile, self._grid.device, halo=1))
        x = silu(x, inplace=True)
        before = x[:, :, :1].expand(-1, -1, kept.frames, -1, -1)
        if past is not None:
            before = past.cut(tile, self._grid.device, halo=1)
        x = torch.cat([before, x], dim=2)
        kept.put(tile, source.inner(tile, x[:, :, -kept.frames :]))
        return x

    def _convolved(self, conv: CausalConv, x_BCTHW: Tensor, ends: tuple[int, int, int, int]) -> Tensor:
        """The convolution of a window, where the frame ends after copies of its border."""
        if any(ends):
            x_BCTHW = pad(x_BCTHW, (*ends, 0, 0), mode="replicate")
        return conv.unpadded(x_BCTHW)


def attend_tiled(chunks: list[Sheet], block: AttentionBlock, grid: Grid) -> None:
    """Add temporal attention to the chunks of a clip, in place, some rows at a time: a pixel sees no other pixel."""
    lengths = [chunk.frames for chunk in chunks]
    before, after = Moments.joined([counted(chunk) for chunk in chunks]), Moments(grid.groups)
    rows = max(1, PIXELS_PER_STRIP // (grid.width * chunks[0].scale ** 2))
    for strip in tiles(grid.height, grid.width, rows, grid.width):
        x = torch.cat([chunk.cut(strip, grid.device) for chunk in chunks], dim=2)
        x += block.attended(before.normed(block.norm, x))
        after.add(x)
        for chunk, part in zip(chunks, torch.split(x, lengths, dim=2), strict=True):
            chunk.write(strip, part)
        del x  # before the next strip is computed
    for chunk, moments in zip(chunks, after.split(lengths), strict=True):
        chunk.moments = moments


def counted(sheet: Sheet) -> Moments:
    """The statistics of a sheet; raise ValueError when they were not counted."""
    if sheet.moments is None:
        raise ValueError(
            f"the statistics of an activation of shape {tuple(sheet.values.shape)} were not counted"
        )
    return sheet.moments


def _grid(height: int, width: int, tile: TileSize, device: torch.device, groups: int) -> Grid:
    """For a frame of `height` x `width` latent pixels; raise ValueError unless the tile's sides are multiples of 8."""
    for side, pixels in zip(("rows", "columns"), tile, strict=True):
        if pixels < SPATIAL or pixels % SPATIAL:
            raise ValueError(f"the {side} of a tile must be a positive multiple of {SPATIAL}, got {pixels}")
    cut = tiles(height, width, tile[0] // SPATIAL, tile[1] // SPATIAL)
    return Grid(height=height, width=width, tiles=cut, device=device, groups=groups)
