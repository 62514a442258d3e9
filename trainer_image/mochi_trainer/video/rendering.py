"""Decoded frames as pictures of one size: colours, aperture, orientation, shape of the pixels, crop, tone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mochi_trainer.video.aperture import Aperture, Window, window_of
from mochi_trainer.video.colours import Converter
from mochi_trainer.video.framing import Framing, Picture, framing
from mochi_trainer.video.hdr import Transfer, tone_mapped
from mochi_trainer.video.orientation import Orientation, orientation_of
from mochi_trainer.video.scaling import Scaler, is_near
from mochi_trainer.video.shrinking import Band


def upright_size(frame: Any, pixel_aspect: float, aperture: Aperture | None) -> tuple[float, float]:
    """Width and height of a decoded frame as it is shown, in lines of its coded height or width."""
    window = window_of(aperture, frame.width, frame.height)
    width, height = window.width * pixel_aspect, float(window.height)
    return (height, width) if orientation_of(frame).lies else (width, height)


@dataclass(slots=True)
class Renderer:
    """Makes pictures of `width` x `height` of the frames of one clip; it gathers what happened to them."""

    width: int
    height: int
    pixel_aspect: float
    converter: Converter
    aperture: Aperture | None = None
    crop_x: float = 0.5
    crop_y: float = 0.5
    enlargement: float = 1.0
    transfers: set[Transfer] = field(default_factory=set)
    _scaler: Scaler = field(default_factory=Scaler)

    def picture(self, frame: Any) -> Picture:
        """(H, W, 3) of a decoded frame; raise ClipError for colours that are not converted."""
        turned = orientation_of(frame)
        window = window_of(self.aperture, frame.width, frame.height)
        size = (window.height, window.width) if turned.lies else (window.width, window.height)
        box = framing(
            *size,
            self.width,
            self.height,
            pixel_aspect=1 / self.pixel_aspect if turned.lies else self.pixel_aspect,
            crop_x=self.crop_x,
            crop_y=self.crop_y,
        )
        self.enlargement = box.enlargement
        if (bands := self._bands(frame, turned, window, box)) is not None:
            self.transfers.add(Transfer.SDR)
            return self._scaler.shrunk(bands, box)
        colours = self.converter.colours(frame)
        self.transfers.add(colours.transfer)
        picture = self._scaler.picture([turned.apply(window.apply(plane)) for plane in colours.planes], box)
        if colours.transfer is Transfer.SDR:
            return picture
        return tone_mapped(picture, colours.full, colours.transfer, colours.primaries)

    def _bands(self, frame: Any, turned: Orientation, window: Window, box: Framing) -> Iterator[Band] | None:
        """The frame's planes some rows at a time, where it is shown as it lies and can be shrunk so."""
        lies = turned == Orientation() and (window.width, window.height) == (frame.width, frame.height)
        return self.converter.in_bands(frame) if lies and is_near(box, frame.height, frame.width) else None
