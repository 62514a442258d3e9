"""The command preprocess: a folder of clips without a run file, looked at or turned into what training reads."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from mochi_api.clips import ClipWarning
from mochi_api.outcomes import Item
from mochi_api.rules.run_files import broken_rules
from mochi_api.runfile import CacheKeys, RunFile
from mochi_api.spec import PreprocessingSpec, S3Spec
from mochi_trainer.advice_by_hand import option, with_options
from mochi_trainer.cpus import available
from mochi_trainer.errors import InvalidInputError, MissingObjectError, TrainerError
from mochi_trainer.graph import Made
from mochi_trainer.jobs import cutting
from mochi_trainer.jobs.cutting import Cutter, unit_of
from mochi_trainer.jobs.left_out import LeftOut
from mochi_trainer.jobs.near_duplicates import near_duplicates
from mochi_trainer.jobs.pieces import Piece, label_of, pieces
from mochi_trainer.jobs.repeats import repeating
from mochi_trainer.jobs.source_captions import chosen, lacks, no_captions, no_words, with_captions
from mochi_trainer.jobs.source_clips import SourceClip, dataset_objects, no_clips, source_clips
from mochi_trainer.jobs.trimmed import check_enough
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Store, address_by_hand, open_store
from mochi_trainer.storage.file_names import key_of
from mochi_trainer.video import Readers

UID = "by-hand"
BAR, LEAST_BAR = 30, 4
"""Characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of a folder of clips; None where nothing was said."""

    clips: str
    """A folder, or `s3://bucket/prefix`."""
    out: str | None
    """Where the cache goes: a folder, or `s3://bucket/prefix`."""
    check: bool
    """Only look: nothing is kept."""
    preset: str
    model: str | None
    """Address of the weights; nano brings its own."""
    frames: int | None
    width: int | None
    height: int | None
    fps: int | None
    segments: str | None
    max_per_clip: int | None
    missing_caption: str | None
    max_failed_items_percent: int | None


def preprocess(request: Request, s3: S3Spec) -> None:
    """Look at each clip (`check`), or make all three stages; one line a clip or stage on standard output.

    Raises InvalidInputError, DatasetRejectedError and what the stages raise.
    """
    if request.check == (request.out is not None):
        raise InvalidInputError("preprocess takes either --out ADDRESS or --check")
    _check_folders(request)
    with ExitStack() as stack, _words_of_options():
        out = request.out or stack.enter_context(tempfile.TemporaryDirectory(prefix="mochi-check-"))
        run = _run_file(request, out, s3)
        if request.check:
            if sys.stdout.isatty():  # which is told of each clip already
                logging.getLogger(cutting.__name__).setLevel(logging.ERROR)
            _check(run)
        else:
            stack.enter_context(PROCESS.heard(_Bar().show))
            _make(run)


def _check_folders(request: Request) -> None:
    """Raise InvalidInputError or MissingObjectError when clips cannot lie, or results cannot go, where the command says."""
    for name, address in (("the folder of the clips", request.clips), ("--out", request.out)):
        if address is not None and (
            not address or "://" in address.removeprefix("file://").removeprefix("s3://")
        ):
            raise InvalidInputError(f"{name} must be a folder or s3://bucket/prefix, got {address!r}")
    clips = _folder(request.clips)
    if clips is not None and not clips.is_dir():
        shown = key_of(str(clips))
        what = (
            f"{shown} is a file: name the folder that it lies in"
            if clips.exists()
            else f"there is no folder {shown}"
        )
        raise MissingObjectError(what, action="correct the folder's name, and run the command again")
    out = None if request.out is None else _folder(request.out)
    if out is not None:
        there = next(path for path in (out, *out.parents) if path.exists())
        if not there.is_dir():
            raise InvalidInputError(f"--out must be a folder, and {key_of(str(there))} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InvalidInputError(
                f"--out must be a folder that can be written, and {key_of(str(there))} cannot"
            )


def _folder(address: str) -> Path | None:
    """What lies on this machine; None of an address in a store."""
    if address.startswith("file://"):
        return Path(unquote(address.removeprefix("file://"), errors="surrogateescape"))
    return None if "://" in address else Path(address).absolute()


@contextmanager
def _words_of_options() -> Iterator[None]:
    """Errors of the stages speak of a spec, the command has options."""
    try:
        yield
    except TrainerError as error:
        error.args = (with_options(str(error)),)
        error.action = error.action and with_options(error.action)
        raise


def _run_file(request: Request, out: str, s3: S3Spec) -> RunFile:
    given = ("frames", "width", "height", "fps", "missing_caption", "max_failed_items_percent")
    asked = {name: value for name in given if (value := getattr(request, name)) is not None}
    if request.segments in {None, "First"} and request.max_per_clip not in {None, 1}:
        raise InvalidInputError(
            f"--max-per-clip must be 1 unless --segments is Even or Cuts, got {request.max_per_clip}"
        )
    if request.segments is not None:
        asked["segments"] = {"select": request.segments, "maxPerClip": request.max_per_clip}
    size = {"width": 96, "height": 64} if request.preset == "nano" else {}
    try:
        spec = PreprocessingSpec.model_validate({**size, **asked})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(
            f"{option(str(first['loc'][-1]))}: {first['msg']}, got {first['input']}"
        ) from error
    cache = address_by_hand(out)
    run = RunFile.model_validate(
        {
            "stage": "trim",
            "run": {"namespace": UID, "name": UID, "uid": UID},
            "mode": "lora",
            "model": {"preset": request.preset},
            "dataset": {"source": {"pvc": {"claimName": UID}}},
            "preprocessing": spec.to_wire(),
            "training": {},
            "sampling": {},
            "s3": s3,
            "locations": {
                "dataset": address_by_hand(request.clips),
                "model": _model(request.model, s3),
                "cache": f"{cache}/cache",
                "run": f"{cache}/runs/{UID}",
            },
        }
    )
    if broken := broken_rules(run):
        raise InvalidInputError("; ".join(broken))
    return run


def _model(text: str | None, s3: S3Spec) -> str | None:
    """Where the weights lie; the hub's cache is a folder of this machine. Raises as `open_source`."""
    if text is None:
        return None
    if not text.startswith("hf://"):
        return address_by_hand(text)
    from mochi_trainer.weights import open_source  # with torch, which --check does without

    return address_by_hand(str(open_source(text, s3)))


def _check(run: RunFile) -> None:
    """Cut every clip as the stage trim would, and keep nothing."""
    spec = run.preprocessing
    source = open_store(run.locations.dataset, run.s3)
    left_out = LeftOut()
    objects = list(dataset_objects(source, run, left_out))
    clips = source_clips(objects, left_out=left_out)
    if not clips:
        raise no_clips(source, objects, left_out)
    read = with_captions(source, clips)
    faults = {clip.name: item for clip in read if (item := _caption_fault(clip, spec))}
    for item in faults.values():
        _tell(item.clip, {"reason": item.reason, "message": item.message})
    whole = {unit_of(clip, spec): clip for clip in read if clip.name not in faults}
    failures = [*(faults[clip.name] for clip in read if clip.problem), *_looked_at(source, whole, spec)]
    usable, _ = chosen(
        source, read, spec
    )  # a caption that is missing is no bad clip, and refused or left out
    if not usable:
        raise no_captions(source, clips)
    check_enough(len(usable), len(usable) - len(failures), failures, spec.max_failed_items_percent)


def _looked_at(source: Store, whole: Mapping[str, SourceClip], spec: PreprocessingSpec) -> list[Item]:
    """Cut each clip, by its unit, and tell of it; those that cannot be used."""
    failures: list[Item] = []
    labels: list[str] = []
    signatures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mochi-check-") as name, Readers(available()) as readers:
        for made in Cutter(source, whole, spec, Path(name), readers, maker=UID).cut(list(whole)):
            clip = whole[made.key]
            _emptied(made)
            if "failure" in made.info:
                failures.append(_told_failure(clip, made.info["failure"]))
                continue
            for piece in pieces(made.info, spec):
                labels.append(_told(clip, piece))
                signatures.append(piece.signature)
        for repeat, (first, *_) in near_duplicates(signatures, readers).items():
            _tell(labels[repeat], {"warnings": {ClipWarning.NEAR_DUPLICATE: repeating(labels[first])}})
    return failures


def _caption_fault(clip: SourceClip, spec: PreprocessingSpec) -> Item | None:
    if clip.problem:
        return Item.of(clip.source.key, clip.problem, clip.reason)
    missing = lacks(clip)
    if missing is None or spec.missing_caption == "Empty":
        return None
    return Item.of(clip.source.key, no_words(clip), missing)


def _emptied(made: Made) -> None:
    for content in made.files.values():
        if isinstance(content, Path):
            content.unlink()


def _told_failure(clip: SourceClip, failure: Mapping[str, Any]) -> Item:
    _tell(clip.source.key, dict(failure))
    return Item.of(clip.source.key, failure["message"], failure["reason"])


def _told(clip: SourceClip, piece: Piece) -> str:
    """Tell of a clip, or of a segment of it; what it was called."""
    label = label_of(clip.source.key, piece.segment)
    start = {} if piece.segment is None else {"start": round(piece.start, 3)}
    _tell(label, {**start, "frames": piece.frames, "warnings": piece.warnings})
    return label


def _make(run: RunFile) -> None:
    """The three stages, one after the other."""
    from mochi_trainer.jobs import captions, trim, videos  # torch is imported only where it is needed

    keys = CacheKeys()
    for stage, job in (("trim", trim), ("captions", captions), ("videos", videos)):
        finished = job.execute(run.model_copy(update={"stage": stage, "keys": keys}))
        assert finished.result is not None, "a stage of preprocessing has a result"
        keys = keys.model_copy(update={stage: finished.result.cache_key})
        _tell(stage, {"message": finished.message, "key": finished.result.cache_key})
        for item in finished.failures:
            _tell(item.clip, {"reason": item.reason, "message": item.message})


def _tell(name: str, facts: Mapping[str, Any]) -> None:
    """A line for a person on a terminal, one JSON object everywhere else."""
    if sys.stdout.isatty():
        sys.stdout.write("".join(f"{_printable(line)}\n" for line in _lines(name, facts)))
    else:
        sys.stdout.write(json.dumps({"name": name, **facts}, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def _lines(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    if "reason" in facts:
        yield f"✗ {name}  {facts['reason']}: {facts['message']}"
        return
    made = "frames" in facts or "message" in facts
    yield f"{'✓' if made else '!'} {name}  {(facts.get('message') or _length(facts)) if made else ''}"
    for warning, message in facts.get("warnings", {}).items():
        yield f"    {warning}: {message}"


def _printable(text: str) -> str:
    """`text` without what a terminal would obey: a name may have any characters."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _length(facts: Mapping[str, Any]) -> str:
    start = f" from {facts['start']:.2f} s on" if "start" in facts else ""
    return f"{facts['frames']} frames{start}"


class _Bar:
    """How far the stage is, on a terminal."""

    def __init__(self) -> None:
        self._shown = (-1, -1)

    def show(self) -> None:
        beat = PROCESS.heartbeat()
        state = (beat.done, beat.total)
        if beat.activity != "working" or state == self._shown or not sys.stderr.isatty():
            return
        self._shown = state
        end = "\n" if beat.done == beat.total else ""
        sys.stderr.write(f"\r{bar(beat.done, beat.total, shutil.get_terminal_size().columns)}{end}")
        sys.stderr.flush()


def bar(done: int, total: int, columns: int) -> str:
    """How far something is, on one line of a terminal of so many columns."""
    counts = f"{done} of {total}"
    width = min(BAR, columns - len(counts) - 4)
    filled = width * done // max(1, total)
    return f"[{'#' * filled}{'.' * (width - filled)}] {counts}" if width >= LEAST_BAR else counts
