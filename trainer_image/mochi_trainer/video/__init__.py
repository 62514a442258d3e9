"""From files to frames and back (PyAV): choose frames by time, crop and scale, decode, encode."""

from mochi_trainer.video.framing import Framing, framing
from mochi_trainer.video.pictures import contact_sheet, jpeg, png, side_by_side, smaller, strip
from mochi_trainer.video.reading import Probe, probe, read_clip, read_frames
from mochi_trainer.video.selection import frame_choice, on_screen
from mochi_trainer.video.writing import encode_lossless, encode_mp4

__all__ = [
    "Framing",
    "Probe",
    "contact_sheet",
    "encode_lossless",
    "encode_mp4",
    "frame_choice",
    "framing",
    "jpeg",
    "on_screen",
    "png",
    "probe",
    "read_clip",
    "read_frames",
    "side_by_side",
    "smaller",
    "strip",
]
