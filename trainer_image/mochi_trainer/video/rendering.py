"""Decoded frames as pictures of one size: colours, aperture, orientation, shape of the pixels, crop, tone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mochi_trainer.video.aperture import Aperture, window_of
from mochi_trainer.video.colours import Converter
from mochi_trainer.video.framing import Picture, framing
from mochi_trainer.video.hdr import Transfer, tone_mapped
from mochi_trainer.video.orientation import orientation_of
from mochi_trainer.video.scaling import Scaler


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
        colours = self.converter.colours(frame)
        turned = orientation_of(frame)
        window = window_of(self.aperture, frame.width, frame.height)
        planes = [turned.apply(window.apply(plane)) for plane in colours.planes]
        height, width = planes[0].shape
        box = framing(
            width,
            height,
            self.width,
            self.height,
            pixel_aspect=1 / self.pixel_aspect if turned.lies else self.pixel_aspect,
            crop_x=self.crop_x,
            crop_y=self.crop_y,
        )
        self.enlargement = box.enlargement
        self.transfers.add(colours.transfer)
        picture = self._scaler.picture(planes, box)
        if colours.transfer is Transfer.SDR:
            return picture
        return tone_mapped(picture, colours.full, colours.transfer, colours.primaries)
