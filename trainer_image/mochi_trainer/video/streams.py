"""Open a clip as MP4 or MOV only, choose its video, and decode it frame by frame with the times of its presentation."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from mochi_api.clips import ClipReason
from mochi_trainer.clip_error import ClipError
from mochi_trainer.video.colours import Converter
from mochi_trainer.video.descriptions import UNSPECIFIED, Colour, Description
from mochi_trainer.video.header import Header, read_header
from mochi_trainer.video.limits import Limits, too_much_memory
from mochi_trainer.video.timeline import EARLIEST, Held, Timed

log = logging.getLogger(__name__)

TAGS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Tags are of any encoding and of no interest; from av 19 on they never raise, and the argument is gone."""

OPTIONS = {"ignore_editlist": "1"}
"""Of the demuxer; edit lists are applied by `timeline`."""

AS_H264 = "export it as H.264 with the program that wrote it"
ENCRYPTED = {"encv", "drmi"}
OTHER_TRACKS = {
    "soun", "text", "sbtl", "subt", "subp", "clcp", "tmcd", "hint", "meta", "data", "mdta", "camm", "auxv", "odsm", "sdsm",
}  # fmt: skip
"""Handlers of tracks beside a video: sound, texts, time codes, data of a camera."""

SEEK_FROM = 5.0
"""Seconds of media from which on decoding all that comes before would take longer than looking for a keyframe."""

LAST_FRAGMENT = 1.0
"""Seconds by which a file may be shorter than the index of its fragments says: the last picture, rounded times."""

ENOUGH = 5
"""Frames from which on a stream is taken for moving pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a file says of its video stream, before rotation."""

    width: int
    height: int
    fps: float
    """Mean rate; 0 when unknown."""

    seconds: float
    """Duration; 0 when unknown."""

    codec: str
    pixel_aspect: float


@dataclass(frozen=True, slots=True)
class Opened:
    """A clip that is open for decoding."""

    container: Any
    stream: Any
    header: Header

    @property
    def cut_off(self) -> str:
        """In words, how much of the file is missing by its boxes or by the place of its last sample."""
        entries = self.stream.index_entries
        last = entries[len(entries) - 1] if len(entries) else None
        if last is not None:
            self.header.claimed = max(self.header.claimed, last.pos + last.size)
        return self.header.cut_off

    @property
    def lack(self) -> ClipError | None:
        """What the file should have and has not, for whoever needs all of it; None when nothing is known to be missing."""
        if self.cut_off:
            return ClipError(self.cut_off, ClipReason.CORRUPT)
        if (ends := self._ends_early()) is not None:
            return ends
        track, there = self.header.track(self.stream), len(self.stream.index_entries)
        if there >= track.sizes:
            return None
        if track.others:
            codecs = " and ".join((track.codec, *track.others))
            return ClipError(
                f"its pictures are in several codecs ({codecs}), of which only the first is read; {AS_H264}",
                ClipReason.UNSUPPORTED,
            )
        return ClipError(
            f"its index is damaged: it says of {there} of its {track.sizes} pictures where they are",
            ClipReason.CORRUPT,
        )

    def _ends_early(self) -> ClipError | None:
        """Whether fragments are missing that the index speaks of; what is left of the file is run through for it."""
        claimed = self.header.with_fragments
        if not claimed:
            return None
        _run_through(self.container, self.stream)
        ends = [
            float(entries[len(entries) - 1].timestamp * stream.time_base)
            for stream in self.container.streams
            if stream.time_base and len(entries := stream.index_entries)
        ]
        if claimed - max(ends, default=0.0) < LAST_FRAGMENT:
            return None
        return ClipError(
            f"cut off: its pictures end at {max(ends, default=0.0):.2f} of {claimed:.2f} s",
            ClipReason.CORRUPT,
        )

    @property
    def description(self) -> Description:
        """What the container says of its pictures."""
        return self.header.track(self.stream).description

    @property
    def pixel_aspect(self) -> float:
        """Width of a pixel over its height; 1 where the file says nothing or nonsense.

        libav takes it from the sizes of track and pictures where that is all there is; a track is as large as what is shown.
        """
        aspect = float(self.stream.sample_aspect_ratio or 1)
        aperture, square = self.description.aperture, self.description.square
        if aperture is not None and square and self.header.track(self.stream).scaled:
            width, height = self.stream.codec_context.width, self.stream.codec_context.height
            if (shown := aperture.window(width, height)) is not None:
                aspect *= width * shown.height / (height * shown.width)
        return aspect if 0.1 <= aspect <= 10 else 1.0

    @property
    def late(self) -> int:
        """Ticks by which libav puts samples in fragments too late; 0 in a file without."""
        track = self.header.track(self.stream)
        late = max(track.shift, self.header.shifts.get(track.number, 0))
        return late if self.header.first_fragment else 0

    def packets(self) -> Iterator[Any]:
        """What is coded, from where the container stands on, at the times that the file says."""
        late, first = self.late, self.header.track(self.stream).shift
        for packet in self.container.demux(self.stream):
            if late and packet.pts is not None:
                before = packet.pos is not None and packet.pos < self.header.first_fragment
                packet.pts -= late - first if before else late
            yield packet

    def converter(self) -> Converter:
        """Of its frames."""
        return Converter(self.description.chroma, self.header.track(self.stream).premultiplied)

    def probe(self) -> Probe:
        """What the file says of its video."""
        context = self.stream.codec_context
        return Probe(
            width=context.width,
            height=context.height,
            fps=float(self.stream.average_rate or 0),
            seconds=float(self.stream.duration * self.stream.time_base) if self.stream.duration else 0.0,
            codec=context.name,
            pixel_aspect=self.pixel_aspect,
        )


@contextmanager
def clip_errors(doing: str) -> Iterator[None]:
    """Whatever the body raises is the failure of this clip: a ClipError that says what it was."""
    try:
        yield
    except ClipError:
        raise
    except MemoryError as error:
        raise ClipError(f"{doing}: {too_much_memory()}", ClipReason.TOO_LARGE) from error
    except av.FFmpegError as error:
        raise ClipError(f"{doing}: {_said(error)}", ClipReason.CORRUPT) from error
    except Exception as error:
        log.exception("%s", doing)
        raise ClipError(f"{doing}: {type(error).__name__}: {error}", ClipReason.CORRUPT) from error


@contextmanager
def opened(path: Path, limits: Limits) -> Iterator[Opened]:
    """The clip, open; raise ClipError when it cannot be, has no video or claims more than `limits`.

    What the body raises passes as it is.
    """
    with clip_errors("cannot be read as MP4 or MOV"):
        header = read_header(path, limits)
        container = av.open(
            str(path.absolute()), format="mov", options=OPTIONS | {"max_pixels": str(limits.pixels)}, **TAGS
        )
    try:
        with clip_errors("cannot be read as MP4 or MOV"):
            stream = _best(container, header)
            _check_size(stream, limits)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = limits.threads
            stream.codec_context.options = {"max_pixels": str(limits.pixels)}
            clip = Opened(container, stream, header)
            if clip.late:  # is the same for all samples once all fragments have been met
                _run_through(container, stream)
                container.seek(0, stream=stream)
        yield clip
    finally:
        container.close()


def _run_through(container: Any, stream: Any) -> None:
    """Meet all fragments; damage among them matters to whoever decodes it."""
    with suppress(av.FFmpegError):
        deque(container.demux(stream), maxlen=0)


def _best(container: Any, header: Header) -> Any:
    """The video stream that players take: no attached picture; one that is on, that moves, the largest."""
    videos = [
        stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not videos:
        raise _no_video(container, header)
    usable = [stream for stream in videos if stream.codec_context is not None]
    if not usable or all(header.track(stream).codec in ENCRYPTED for stream in usable):
        raise _unsupported(header.track(videos[0]).codec)
    chosen = max(
        usable, key=lambda stream: (_has_pictures(stream, header), _is_video(stream, header), *_rank(stream))
    )
    track = header.track(chosen)
    if track.number and not track.scale:
        raise ClipError(
            "its index is damaged: its pictures have 0 units of time a second", ClipReason.CORRUPT
        )
    dolby = track.description.dolby_vision
    if dolby is not None and not dolby.readable:
        raise ClipError(
            f"its pictures are in Dolby Vision's own colours (profile {dolby.profile}, IPT-PQ-c2), which are not "
            "converted; export the clip as BT.709, HDR10 or HLG from its source",
            ClipReason.UNSUPPORTED,
        )
    return chosen


def _no_video(container: Any, header: Header) -> ClipError:
    """A file of sound, of a cover alone; or one whose index is damaged where it would name its video."""
    strange = [track.kind for track in header.tracks if track.kind not in OTHER_TRACKS]
    if not container.streams.video and (strange or not header.tracks):
        said = "does not say what a track is" if strange else "has no track"
        return ClipError(f"its index is damaged: it {said}", ClipReason.CORRUPT)
    return ClipError("no video stream in the file", ClipReason.NO_VIDEO_STREAM)


def _has_pictures(stream: Any, header: Header) -> bool:
    """Not only what Dolby Vision adds to those of another track."""
    dolby = header.track(stream).description.dolby_vision
    return dolby is None or dolby.base


def _is_video(stream: Any, header: Header) -> bool:
    """By its handler; libav takes for videos also what only adds to one: depth, alpha (`auxv`)."""
    return header.track(stream).kind == "vide"


def _rank(stream: Any) -> tuple[bool, bool, int, int]:
    context = stream.codec_context
    shown = bool(stream.disposition & Disposition.default)
    return shown, stream.frames >= ENOUGH or not stream.frames, context.width * context.height, -stream.index


def _unsupported(codec: str) -> ClipError:
    if codec in ENCRYPTED:
        return ClipError(f"encrypted ({codec}): export it without protection", ClipReason.UNSUPPORTED)
    if not codec.strip() or not (codec.isascii() and codec.isprintable()):
        return ClipError(
            "its index is damaged: it does not say in which codec the pictures are", ClipReason.CORRUPT
        )
    return ClipError(f"its codec {codec!r} is not read; {AS_H264}", ClipReason.UNSUPPORTED)


def _check_size(stream: Any, limits: Limits) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.pixels:
        raise ClipError(
            f"has {width}x{height} pixels, at most {limits.pixels} of them are read", ClipReason.TOO_LARGE
        )


def decoded(clip: Opened, *, first: Fraction | None = None) -> Iterator[Timed]:
    """Frames with their times in the media, from where the container stands; those before `first` are passed over.

    Raises ClipError where the data is damaged, naming the time. Frames without a time of their own come to nothing.
    """
    seconds = 0.0
    told = clip.description.colour
    frames = (held for packet in clip.packets() for held in map(Held, packet.decode()))
    while True:
        try:
            held = next(frames)
        except (StopIteration, EOFError):
            return
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise _damaged(clip, f"after {seconds:.2f} s: {_said(error)}") from error
        timed = _timed(held)
        if timed is None:
            raise _damaged(clip, f"after {seconds:.2f} s: a frame without a time")
        seconds = float(timed.seconds)
        if first is not None and timed.seconds < first:
            continue
        if held.frame.is_corrupt:
            raise _damaged(clip, f"at {seconds:.2f} s: a frame is only partly there")
        _coloured(held.frame, told)
        yield timed


def _timed(held: Held) -> Timed | None:
    """With the times that it has itself; None when it has none."""
    frame = held.frame
    if frame.pts is None:
        return None
    base = Fraction(frame.time_base)
    return Timed(frame.pts * base, max(frame.duration or 0, 0) * base, held)


def _coloured(frame: Any, told: Colour) -> None:
    """What a frame does not say of its colours is what the container says.

    libav does so itself, but for decoders that always say something: of ProRes and AV1 also that it is not specified.
    """
    if frame.format.is_rgb:
        told = told._replace(matrix=UNSPECIFIED)
    for name, value in (
        ("color_primaries", told.primaries),
        ("color_trc", told.transfer),
        ("colorspace", told.matrix),
    ):
        if value != UNSPECIFIED and int(getattr(frame, name)) == UNSPECIFIED:
            setattr(frame, name, value)


def _damaged(clip: Opened, where: str) -> ClipError:
    missing = f" ({clip.cut_off})" if clip.cut_off else ""
    return ClipError(f"damaged {where}{missing}", ClipReason.CORRUPT)


def frames_from(clip: Opened, media: Fraction, *, again: bool) -> Iterator[Timed]:
    """Frames from the one on screen at `media` seconds of the media on, and some before it.

    `again` says that the container may stand anywhere. What is far inside is looked for by keyframes.
    """
    if media < SEEK_FROM and not again:
        return decoded(clip)
    for earlier in (0, 1, 10):
        first = _sought(clip, max(media - earlier, Fraction(0)))
        if first is not None and first <= media:
            if (frames := _begun(decoded(clip, first=first), media)) is not None:
                return frames
            break
    _sought(clip, EARLIEST)
    return decoded(clip)


def _begun(frames: Iterator[Timed], media: Fraction) -> Iterator[Timed] | None:
    """The same, when they begin at `media` or before; None where the file calls a keyframe what needs others before it."""
    try:
        first = next(frames, None)
    except ClipError:
        return None
    return None if first is None or first.seconds > media else chain((first,), frames)


def _sought(clip: Opened, media: Fraction) -> Fraction | None:
    """Put the container to the keyframe before `media`, and say when that is shown.

    Frames that follow it in the file and are shown before it need others that come before it in the file.
    """
    place = int(max(media, Fraction(0)) / Fraction(clip.stream.time_base))
    clip.container.seek(place, stream=clip.stream)
    packet = next(clip.packets(), None)
    clip.container.seek(place, stream=clip.stream)
    return None if packet is None or packet.pts is None else packet.pts * Fraction(clip.stream.time_base)


def _said(error: av.FFmpegError) -> str:
    return (error.strerror or "unknown error").lower()
