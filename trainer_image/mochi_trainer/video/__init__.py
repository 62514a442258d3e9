"""From files to frames and back (PyAV): choose frames by time, crop and scale, decode, encode."""

from mochi_trainer.video.cutting import CutClip, cut_clip
from mochi_trainer.video.framing import Framing, framing
from mochi_trainer.video.limits import Limits
from mochi_trainer.video.pictures import contact_sheet, jpeg, png, side_by_side, smaller, strip
from mochi_trainer.video.readers import Readers
from mochi_trainer.video.reading import Clip, Cut, Probe, pictures_of, probe, read_clip, read_frames, reading
from mochi_trainer.video.selection import frame_choice, on_screen
from mochi_trainer.video.writing import encode_lossless, encode_mp4, write_lossless

__all__ = [
    "Clip",
    "Cut",
    "CutClip",
    "Framing",
    "Limits",
    "Probe",
    "Readers",
    "contact_sheet",
    "cut_clip",
    "encode_lossless",
    "encode_mp4",
    "frame_choice",
    "framing",
    "jpeg",
    "on_screen",
    "pictures_of",
    "png",
    "probe",
    "read_clip",
    "read_frames",
    "reading",
    "side_by_side",
    "smaller",
    "strip",
    "write_lossless",
]
