"""A still image as a picture of training: upright, in sRGB, 8 bits, on black; what it claims is looked at before it is read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.framing import Picture, framing
from mochi_trainer.video.limits import Limits, too_much_memory
from mochi_trainer.video.opacity import GREY_ALPHA, Form, form_of, on_black, opacity
from mochi_trainer.video.reading import Cut

FORMATS = ("PNG", "JPEG", "WEBP")
"""No other decoder of the library ever sees a file."""
SEVERAL_IN_ONE = "MPO"
"""A JPEG of a phone with further pictures behind the one that is shown, such as a map of depth or of brightness."""


@dataclass(frozen=True, slots=True)
class Still:
    """One still image."""

    picture: Picture

    @property
    def width(self) -> int:
        """In pixels, upright."""
        return len(self.picture[0])

    @property
    def height(self) -> int:
        """In pixels, upright."""
        return len(self.picture)

    def cut(self, cut: Cut) -> tuple[Picture, float]:
        """The picture in the size of `cut`, and how much larger a pixel became."""
        box = framing(self.width, self.height, cut.width, cut.height, crop_x=cut.crop_x, crop_y=cut.crop_y)
        return box.apply(self.picture), box.enlargement


def read_still(path: Path, limits: Limits) -> Still:
    """The image in a file; raise ClipError when it is no PNG, JPEG or WebP, moves, is damaged or claims too much."""
    with _errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags and of sizes, which are checked here
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > limits.pixels:
                raise ClipError(
                    f"has {image.width}x{image.height} pixels, at most {limits.pixels} of them are read",
                    ClipReason.TOO_LARGE,
                )
            if getattr(image, "is_animated", False) and image.format != SEVERAL_IN_ONE:
                raise ClipError(
                    f"is animated ({getattr(image, 'n_frames', 0)} pictures): save one of them, or all as MP4",
                    ClipReason.UNSUPPORTED,
                )
            image.load()
            return Still(np.asarray(_upright(_shown(path, image))))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ClipError:
        raise
    except MemoryError as error:
        raise ClipError(too_much_memory(), ClipReason.TOO_LARGE) from error
    except Image.DecompressionBombError as error:
        raise ClipError(f"claims too many pixels: {error}", ClipReason.TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ClipError("is no PNG, JPEG or WebP that can be read", ClipReason.CORRUPT) from error
    except Exception as error:  # of a file that somebody made: any decoder may raise anything
        raise ClipError(
            f"cannot be read as an image: {type(error).__name__}: {error}", ClipReason.CORRUPT
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as its EXIF says; nonsense there is no reason to leave it out."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _shown(path: Path, image: Image.Image) -> Image.Image:
    """RGB of 8 bits, what is transparent over black; its tags are those of `image`."""
    opaque = opacity(path, image)
    picture = _srgb(_eight_bits(image, form_of(path)), image.info.get("icc_profile"))
    if opaque is not None:
        picture = Image.fromarray(on_black(np.asarray(picture), opaque))
    picture.info = image.info
    return picture


def _eight_bits(image: Image.Image, form: Form) -> Image.Image:
    """Colours without their opacity. Grey of 16 bits would be cut off at 255 by a conversion."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "LA" or form.colour == GREY_ALPHA:
        return image.getchannel(0)
    return image.convert("RGB") if image.mode in {"P", "1", "RGBA", "PA"} else image


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """In the colours of sRGB; a profile that cannot be used counts as none."""
    if profile:
        try:
            found = ImageCms.profileToProfile(
                image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            found = None
        if found is not None:
            return found
    return image.convert("RGB")
