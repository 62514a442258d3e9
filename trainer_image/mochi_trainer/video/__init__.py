"""From files to frames and back (PyAV): choose frames by time, crop and scale, decode, encode."""

from mochi_trainer.video.aperture import window_of
from mochi_trainer.video.cutting import CutClip, cut_clip
from mochi_trainer.video.framing import Framing, framing
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.pictures import contact_sheet, jpeg, png, side_by_side, smaller, strip
from mochi_trainer.video.presentation import presentation, shown_frames
from mochi_trainer.video.readers import Readers
from mochi_trainer.video.reading import Clip, Cut, Probe, pictures_of, probe, read_clip, read_frames, reading
from mochi_trainer.video.rendering import Renderer, upright_size
from mochi_trainer.video.selection import frame_choice, on_screen
from mochi_trainer.video.streams import Opened, clip_errors, opened
from mochi_trainer.video.writing import encode_lossless, encode_mp4, write_lossless, write_mp4

__all__ = [
    "Clip",
    "Cut",
    "CutClip",
    "Framing",
    "Limits",
    "Opened",
    "Probe",
    "Readers",
    "Renderer",
    "clip_errors",
    "contact_sheet",
    "cut_clip",
    "encode_lossless",
    "encode_mp4",
    "frame_choice",
    "framing",
    "jpeg",
    "on_screen",
    "opened",
    "pictures_of",
    "png",
    "presentation",
    "probe",
    "read_clip",
    "read_frames",
    "reading",
    "shown_frames",
    "side_by_side",
    "smaller",
    "strip",
    "upright_size",
    "window_of",
    "write_lossless",
    "write_mp4",
]
