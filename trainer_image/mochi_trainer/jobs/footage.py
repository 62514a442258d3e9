"""The command footage: what long films hold, and segments of them as clips with captions; on a workstation, no torch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError, InvalidInputError, MissingObjectError
from mochi_trainer.footage.captioning import PROMPT, Endpoint, EndpointError, Wanted, captions
from mochi_trainer.footage.duplicates import Entry, Group, groups
from mochi_trainer.footage.passes import FILM, Overview, overview, stills, write_part
from mochi_trainer.footage.segments import Stretch, even_segments, shot_segments
from mochi_trainer.jobs.footage_table import Table
from mochi_trainer.jobs.source_clips import clip_names
from mochi_trainer.video import Readers

FILMS = frozenset({".mp4", ".mov", ".m4v"})
RECONSTRUCTION = ".recon"
"""How the name ends of what another fine-tuner leaves beside its clips."""

SHOWN = 4
"""Pictures of a clip that the captioning model sees."""

KEY_VARIABLE = "MOCHI_CAPTION_KEY"
"""Of the environment: the key of the endpoint, if it wants one."""

SHOWN_WIDTH = 768
"""Pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of a folder of films."""

    folder: Path
    segments: Literal["cuts", "even"] = "cuts"
    """Inside shots, or evenly over the film."""

    seconds: float = 2.5
    """Of a segment."""

    count: int = 4
    """Segments of a film, at most."""

    out: Path | None = None
    """Where the segments become clips; None: nowhere."""

    duplicates: bool = False
    drop_duplicates: bool = False
    """Make no clips of copies."""

    caption_url: str = ""
    """Empty: nobody is asked."""

    caption_model: str = ""
    caption_prompt: str = ""
    """Empty: the usual one."""

    caption_key_variable: str = KEY_VARIABLE
    at_once: int = 4


@dataclass(frozen=True, slots=True)
class Film:
    """A file of footage, looked at."""

    key: str
    """Its path below the folder."""

    path: Path
    name: str
    """What the clips made of it are called."""

    found: Overview
    segments: tuple[Stretch, ...]


def footage(request: Request) -> None:
    """Look at all films of a folder, tell what was found, and do what was asked for.

    A film that cannot be read is told and left out. Raises MissingObjectError for a folder that is not there,
    InvalidInputError for options that do not go together and for an endpoint that answers for no clip.
    """
    _check(request)
    table = Table()
    with Readers(request.at_once, FILM) as readers:
        films = list(_films(request, readers, table))
        copies = _duplicates(films) if request.duplicates or request.drop_duplicates else []
        table.groups(copies)
        clips = [film.path for film in films]
        if request.out is not None:
            dropped = (
                {name for group in copies for name in group.others} if request.drop_duplicates else set()
            )
            kept = [film for film in films if film.key not in dropped]
            clips = list(_clips(kept, request.out, readers, table))
        if request.caption_url:
            _caption(clips, request, readers, table)


def _check(request: Request) -> None:
    if not request.folder.is_dir():
        raise MissingObjectError(f"there is no folder {request.folder}")
    if bool(request.caption_url) != bool(request.caption_model):
        raise InvalidInputError(
            "--caption-url and --caption-model go together: who is asked, and for which model"
        )
    if request.caption_url:
        _endpoint(request)
    if request.drop_duplicates and request.out is None:
        raise InvalidInputError(
            "--drop-duplicates needs --out: it leaves out clips there, no film is ever deleted"
        )
    if request.seconds <= 0 or request.count < 1 or request.at_once < 1:
        given = f"{request.seconds:g}, {request.count}, {request.at_once}"
        raise InvalidInputError(f"--seconds, --count and --at-once must be positive, got {given}")


def _films(request: Request, readers: Readers, table: Table) -> Iterator[Film]:
    """The films that can be read; all are told."""
    paths = list(film_paths(request.folder, request.out))
    if not paths:
        raise MissingObjectError(f"no MP4, MOV or M4V file in {request.folder}")
    keys = [str(path.relative_to(request.folder)) for path in paths]
    for path, key, name in zip(paths, keys, clip_names(keys), strict=True):
        try:
            found = readers.run(overview, path)
        except Exception as error:  # whatever is wrong with one film ends nothing
            table.failure(key, _reason(error))
            continue
        segments = _segments(found, request)
        table.film(key, found, segments)
        yield Film(key, path, name, found, tuple(segments))


def film_paths(folder: Path, out: Path | None) -> Iterator[Path]:
    """Films below a folder in the order of their paths: no hidden ones, no reconstructions, nothing below `out`."""
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if path.suffix.lower() not in FILMS or not path.is_file():
            continue
        if any(piece.startswith(".") for piece in below.parts) or path.stem.lower().endswith(RECONSTRUCTION):
            continue
        if out is None or out.resolve() not in path.resolve().parents:
            yield path


def _segments(found: Overview, request: Request) -> list[Stretch]:
    whole = Stretch(0.0, found.seconds)
    if request.segments == "even":
        return even_segments(whole, seconds=request.seconds, count=request.count)
    return shot_segments(whole, found.changes, seconds=request.seconds, count=request.count)


def _duplicates(films: Sequence[Film]) -> list[Group]:
    return groups(
        [
            Entry(film.key, film.found.width * film.found.height, film.found.seconds, film.found.signature)
            for film in films
        ]
    )


def _clips(films: Sequence[Film], out: Path, readers: Readers, table: Table) -> Iterator[Path]:
    """Write the segments, those that are not there yet, and yield all that are."""
    out.mkdir(parents=True, exist_ok=True)
    for film in films:
        for number, segment in enumerate(film.segments):
            clip = out / f"{film.name}-{number:02d}.mp4"
            if not clip.exists():
                try:
                    _write(film.path, segment, readers, clip)
                except OSError:
                    raise
                except Exception as error:  # as for a film
                    table.failure(clip.name, _reason(error))
                    continue
            table.clip(clip.name, film.key, segment)
            yield clip


def _write(film: Path, segment: Stretch, readers: Readers, clip: Path) -> None:
    """A clip appears under its name when it is whole. Raises OSError for a folder that cannot be written."""
    unfinished = clip.with_name(f".{clip.name}.part")
    try:
        readers.run(write_part, film, segment, unfinished)
        unfinished.replace(clip)
    finally:
        unfinished.unlink(missing_ok=True)


def _caption(clips: Sequence[Path], request: Request, readers: Readers, table: Table) -> None:
    endpoint = _endpoint(request)
    wanted = [
        Wanted(name=clip.name, path=clip.with_suffix(".txt"), pictures=_Pictures(clip, readers))
        for clip in clips
        if not clip.with_suffix(".txt").exists()
    ]
    try:
        for done in captions(wanted, endpoint, at_once=request.at_once):
            table.caption(done)
    except EndpointError as error:
        raise InvalidInputError(
            str(error), action="correct --caption-url, --caption-model, or the key of the endpoint"
        ) from error


def _endpoint(request: Request) -> Endpoint:
    variable = request.caption_key_variable
    if variable != KEY_VARIABLE and variable not in os.environ:
        raise InvalidInputError(f"--caption-key-variable: there is no variable {variable} in the environment")
    try:
        return Endpoint(
            url=request.caption_url,
            model=request.caption_model,
            key=os.environ.get(variable, "").strip(),
            prompt=request.caption_prompt or PROMPT,
        )
    except ValueError as error:
        raise InvalidInputError(f"--caption-url, or the key in {variable}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Pictures:
    clip: Path
    readers: Readers

    def __call__(self) -> list[bytes]:
        return [_jpeg(Image.fromarray(picture)) for picture in self.readers.run(stills, self.clip, SHOWN)]


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((SHOWN_WIDTH, SHOWN_WIDTH))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _reason(error: Exception) -> tuple[ClipReason, str]:
    if isinstance(error, ClipError):
        return error.reason, str(error)
    return ClipReason.CORRUPT, f"{type(error).__name__}: {error}"
