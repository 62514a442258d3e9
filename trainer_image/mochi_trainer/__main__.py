"""The command line: `python -m mochi_trainer <check|trim|captions|videos|train|sample> --run FILE`,
`sample --prompt TEXT`, `inspect FILE`, `export FILE --to FORM`, `preprocess ADDRESS`,
`cache ADDRESS`, `footage DIR` and `plan FILE`.

Whatever happens, the process exits with a code of `mochi_api.outcomes`, leaves its outcome in the termination log and,
while the store answers, its record and the report in the run's folder.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar, cast, get_args

from mochi_api.identity import SHARD_ENV
from mochi_api.outcomes import ROWS, TABLE, TERMINATION_LOG, Outcome, Reason
from mochi_api.runfile import RUN_FILE_PATH, STAGES, RunFile, Stage, parse
from mochi_api.spec import Preset, S3Spec
from mochi_trainer import cpus, ending, logs
from mochi_trainer.ending import Ending
from mochi_trainer.errors import InvalidInputError, PreemptedError, TrainerError
from mochi_trainer.jobs import check
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.movement import PROCESS, heartbeats
from mochi_trainer.report.publishing import publish
from mochi_trainer.report.record import StageRecord, versions

log = logging.getLogger("mochi_trainer")

R = TypeVar("R")

TERMINATION_LOG_ENV = "MOCHI_TERMINATION_LOG"
HELP: dict[Stage, str] = {
    "check": "look at storage, dataset and model before anything is paid for, within a minute",
    "trim": "cut and crop the clips of the dataset to the length and size of training",
    "captions": "turn the captions into T5 features",
    "videos": "turn the trimmed clips into latents",
    "train": "train the adapter (mode lora) or all weights (mode full)",
    "sample": "make sample videos from the tuned weights",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = _parser().parse_args(argv)
    by_hand = BY_HAND.get(arguments.command)
    if arguments.command == "sample" and (arguments.prompt or arguments.prompts):
        by_hand = _sample
    if by_hand is not None:
        return _by_hand(lambda: by_hand(arguments))
    stage = cast(Stage, arguments.command)
    place = os.environ.get("RANK" if stage == "train" else SHARD_ENV, "")
    rank = int(place) if place.isdecimal() else 0
    logs.set_up(rank=rank if place else None)
    cpus.limit_threads()
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop)
    started = datetime.now(UTC)
    with ExitStack() as signs:
        run, ended = _run(stage, arguments.run, rank, signs, stop)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if run is not None:
            ended = _published(run, ended, started)
    _tell(ended.outcome)
    _leave(ended.outcome)
    return ROWS[ended.outcome.reason].exit_code or 0


def _by_hand(command: Callable[[], None]) -> int:
    """Do what has no run file: the same exit codes, but no record and no report."""
    logs.set_up()
    cpus.limit_threads()
    try:
        command()
    except (Exception, KeyboardInterrupt) as error:
        outcome = ending.failure(error, 0).outcome
        if outcome.reason is Reason.BUG:
            log.exception("a defect of the trainer")
        _tell(outcome)
        return ROWS[outcome.reason].exit_code or 0
    return 0


def _inspect(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs import inspection  # torch is imported only now, as for the stages

    sys.stdout.write(inspection.report(arguments.file))


def _export(arguments: argparse.Namespace) -> None:
    from mochi_trainer.exports import by_hand  # as above
    from mochi_trainer.exports.request import Request

    by_hand.export(_request(Request, arguments))


def _preprocess(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs import preprocess_by_hand  # as above

    s3 = S3Spec(endpoint=arguments.endpoint, path_style=bool(arguments.endpoint))
    preprocess_by_hand.preprocess(_request(preprocess_by_hand.Request, arguments), s3)


def _cache(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs import cache  # as above

    s3 = S3Spec(endpoint=arguments.endpoint, path_style=bool(arguments.endpoint))
    sys.stdout.write(cache.look(_request(cache.Request, arguments), s3))


def _footage(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs import footage  # as above

    footage.footage(_request(footage.Request, arguments))


def _plan(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs import plan_by_hand  # it does without torch altogether

    if (arguments.file is None) == (arguments.run is None):
        raise InvalidInputError("plan takes one file: FILE or --run FILE")
    request = plan_by_hand.Request(
        file=arguments.file or arguments.run, gpu=arguments.gpu, json=arguments.json
    )
    sys.stdout.write(plan_by_hand.plan(request))


def _sample(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs import sample_by_hand  # as above

    if arguments.run != Path(RUN_FILE_PATH):
        raise InvalidInputError("--run and --prompt exclude each other: the run file has its own prompts")
    sample_by_hand.sample(_request(sample_by_hand.Request, arguments))


BY_HAND: dict[str, Callable[[argparse.Namespace], None]] = {
    "inspect": _inspect,
    "export": _export,
    "preprocess": _preprocess,
    "cache": _cache,
    "footage": _footage,
    "plan": _plan,
}


def _request(kind: Callable[..., R], arguments: argparse.Namespace) -> R:
    """What was given on the command line as the dataclass `kind`, whose fields have the names of the options."""
    return kind(**{name: getattr(arguments, name) for name in inspect.signature(kind).parameters})


def _run(stage: Stage, path: Path, rank: int, signs: ExitStack, stop: _Stop) -> tuple[RunFile | None, Ending]:
    run: RunFile | None = None
    try:
        run = run_file(path, stage)
        PROCESS.attempt = run.run.attempt
        if rank == 0 or stage != "train":  # of several shards the one that works longest is listened to
            signs.enter_context(heartbeats(PROCESS))  # before the imports of the job, which take seconds
        job = _job(stage)
        stop.check()
        PROCESS.doing("working")
        return run, ending.success(job(run), rank)
    except (Exception, KeyboardInterrupt) as error:
        ended = ending.failure(error, rank)
        if ended.outcome.reason is Reason.BUG:
            log.exception("a defect of the trainer")
        return run, ended


def run_file(path: Path, stage: Stage, *, mounted: Path = Path(RUN_FILE_PATH)) -> RunFile:
    """The run file at `path`: one by hand may have a typo, the one that is `mounted` may be that of a newer operator.

    Raises InvalidInputError when it cannot be read, RunFileError when it is not one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"run file {path} cannot be read: {error}") from error
    return parse(text, strict=path != mounted).model_copy(update={"stage": stage})


def _job(stage: Stage) -> Callable[[RunFile], Finished]:
    """The function of a command; its libraries are imported only now, so that `--help` and trim do without torch."""
    module = importlib.import_module(f"mochi_trainer.jobs.{stage}")
    return cast(Callable[[RunFile], Finished], module.execute)


class _Stop:
    """The handler of SIGTERM: raises in the main thread, once. Training has its own while it runs."""

    def __init__(self) -> None:
        self._requested = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.check()

    def check(self) -> None:
        """Raise PreemptedError if the signal has come: a library that was being imported may have caught the first one."""
        if self._requested:
            raise PreemptedError("stopped by SIGTERM; what other runs can reuse is kept")


def _published(run: RunFile, ended: Ending, started: datetime) -> Ending:
    """Store the record and the report; a store that does not answer now changes nothing about how the job ended."""
    record = StageRecord(
        stage=run.stage,
        attempt=run.run.attempt,
        outcome=ended.outcome,
        started=started.isoformat(timespec="seconds"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 3),
        failures=list(ended.failures),
        details=dict(ended.details),
        versions=versions(),
    )
    try:
        address = check.publish_in_time(run, record) if run.stage == "check" else publish(run, record)
    except TrainerError as error:
        log.warning("the report could not be written: %s", error)
        return ended
    return ended.with_report(address)


def _tell(outcome: Outcome) -> None:
    row = ROWS[outcome.reason]
    if outcome.reason is Reason.COMPLETED:
        log.info("%s: %s", outcome.reason, outcome.message or "done")
    else:
        log.error("%s: %s; what to do: %s", outcome.reason, outcome.message, outcome.action or row.action)


def _leave(outcome: Outcome) -> None:
    """Write the termination log where there is one; a workstation has none."""
    path = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    try:
        path.write_text(outcome.to_line() + "\n", encoding="utf-8")
    except OSError as error:
        log.debug("no termination log at %s: %s", path, error)


def _parser() -> argparse.ArgumentParser:
    rows = [row for row in TABLE if row.exit_code is not None]
    codes = "\n".join(f"  {row.exit_code:>3}  {row.reason:<18} {row.action}" for row in rows)
    parser = argparse.ArgumentParser(
        prog="python -m mochi_trainer",
        description="Fine-tune Mochi-1, one stage at a time. The order is: " + ", ".join(STAGES) + ".",
        epilog=f"exit codes, and what to do:\n{codes}\n\nS3 credentials come from the environment "
        f"(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the machine's identity.\n"
        f"The outcome is also written as one JSON line to {TERMINATION_LOG} (or ${TERMINATION_LOG_ENV}).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for stage, text in HELP.items():
        command = commands.add_parser(stage, help=text, description=text.capitalize() + ".")
        command.add_argument(
            "--run",
            type=Path,
            default=Path(RUN_FILE_PATH),
            metavar="FILE",
            help=f"run file (YAML), by default {RUN_FILE_PATH}",
        )
        if stage == "sample":
            _sample_arguments(command)
    text = "tell what a safetensors file is, whether it is whole, and what to do with it"
    command = commands.add_parser("inspect", help=text, description=text.capitalize() + ".")
    command.add_argument("file", type=Path, metavar="FILE")
    text = "turn a LoRA or a transformer into the form that another tool takes"
    _export_arguments(commands.add_parser("export", help=text, description=text[0].upper() + text[1:] + "."))
    text = "look at a folder of clips, or turn it into what training reads, without a run file"
    _preprocess_arguments(commands.add_parser("preprocess", help=text, description=text.capitalize() + "."))
    text = "list what a cache holds and what no run uses any more, and remove that on request"
    _cache_arguments(commands.add_parser("cache", help=text, description=text.capitalize() + "."))
    text = "look at long films: cuts, segments, near-duplicates, warnings; make clips and captions of them"
    _footage_arguments(
        commands.add_parser("footage", help=text, description=text[0].upper() + text[1:] + ".")
    )
    text = "tell what a training will need and how long it takes on which GPU, from its file alone"
    _plan_arguments(commands.add_parser("plan", help=text, description=text.capitalize() + "."))
    return parser


def _plan_arguments(command: argparse.ArgumentParser) -> None:
    text = "a MochiFineTune as it is applied, or a run file"
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help=text)
    command.add_argument("--run", type=Path, metavar="FILE", help="the same")
    text = "only this product, as the node label nvidia.com/gpu.product names it"
    command.add_argument("--gpu", default="", metavar="PRODUCT", help=text)
    command.add_argument("--json", action="store_true", help="as JSON, sizes in bytes")


def _footage_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="DIR", help="MP4, MOV and M4V files, in subfolders too")
    text = "cuts: segments inside shots, never over a change (the default); even: evenly over the film"
    command.add_argument("--segments", choices=("cuts", "even"), default="cuts", help=text)
    command.add_argument(
        "--seconds", type=float, default=2.5, metavar="N", help="of a segment, by default 2.5"
    )
    command.add_argument(
        "--count", type=int, default=4, metavar="N", help="segments of a film at most, by default 4"
    )
    text = "write the segments there as clips; what is there already stays"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)
    command.add_argument("--duplicates", action="store_true", help="tell which films show nearly the same")
    text = "with --out: make no clips of the copies"
    command.add_argument("--drop-duplicates", action="store_true", help=text)
    group = command.add_argument_group("captions, for clips that have no .txt file beside them")
    text = "base address of an endpoint with OpenAI's chat interface, such as http://127.0.0.1:8000/v1"
    group.add_argument("--caption-url", default="", metavar="URL", help=text)
    group.add_argument("--caption-model", default="", metavar="NAME", help="a model that sees pictures")
    group.add_argument(
        "--caption-prompt", default="", metavar="TEXT", help="what is asked, instead of the usual"
    )
    text = "environment variable with the key, by default MOCHI_CAPTION_KEY"
    group.add_argument("--caption-key-variable", default="MOCHI_CAPTION_KEY", metavar="NAME", help=text)
    group.add_argument(
        "--at-once", type=int, default=4, metavar="N", help="questions at a time, by default 4"
    )


EXPORTS = {
    "diffusers": "LoRA for load_lora_weights",
    "native": "LoRA for ComfyUI and the published code",
    "merged": "base with the LoRA in its weights",
    "diffusers-folder": "dit.safetensors for MochiTransformer3DModel",
    "published": "a transformer of Diffusers as dit.safetensors",
}


def _export_arguments(command: argparse.ArgumentParser) -> None:
    text = "a LoRA in either format (several, times WEIGHT, add up), or a transformer (file or folder)"
    command.add_argument("files", nargs="+", metavar="FILE[:WEIGHT]", help=text)
    text = "; ".join(f"{name}: {what}" for name, what in EXPORTS.items())
    command.add_argument("--to", choices=EXPORTS, required=True, help=text)
    text = "folder to make, with the model card README.md"
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)
    text = "the base for --to merged: its folder or dit.safetensors; by default that of nano"
    command.add_argument("--model", type=Path, metavar="DIR", help=text)
    text = "refuse files of another model"
    command.add_argument("--preset", choices=get_args(Preset), help=text)


def _preprocess_arguments(command: argparse.ArgumentParser) -> None:
    text = "folder or s3://bucket/prefix with the clips and their captions"
    command.add_argument("clips", metavar="ADDRESS", help=text)
    text = "folder or s3://bucket/prefix for the cache that training reads"
    command.add_argument("--out", metavar="ADDRESS", help=text)
    text = "only tell of each clip whether it can be used, and what is worth a look; needs no GPU and keeps nothing"
    command.add_argument("--check", action="store_true", help=text)
    command.add_argument("--preset", choices=get_args(Preset), default="mochi-1", help="by default mochi-1")
    text = "folder, s3://bucket/prefix or hf://owner/name with the weights; nano brings its own"
    command.add_argument("--model", metavar="ADDRESS", help=text)
    for name in ("frames", "width", "height", "fps"):
        command.add_argument(f"--{name}", type=int, metavar="N", help="as preprocessing." + name)
    text = "as preprocessing.segments.select"
    command.add_argument("--segments", choices=("First", "Even", "Cuts"), help=text)
    text = "as preprocessing.segments.maxPerClip"
    command.add_argument("--max-per-clip", type=int, metavar="N", help=text)
    command.add_argument(
        "--missing-caption", choices=("Fail", "Empty", "Skip"), help="as preprocessing.missingCaption"
    )
    text = "as preprocessing.maxFailedItemsPercent"
    command.add_argument("--max-failed-items-percent", type=int, metavar="N", help=text)
    command.add_argument("--endpoint", default="", metavar="URL", help="an S3 server that is not AWS")


def _cache_arguments(command: argparse.ArgumentParser) -> None:
    text = "outputURI or cacheURI of the runs: what lies above cache/; a folder as file:///folder"
    command.add_argument("address", metavar="ADDRESS", help=text)
    text = "another outputURI whose runs share this cache; can be repeated; by default ADDRESS itself"
    command.add_argument("--runs", action="append", default=[], metavar="ADDRESS", help=text)
    text = "leave alone what is younger; by default 7"
    command.add_argument("--young-days", type=float, default=7.0, metavar="DAYS", help=text)
    text = "delete what no run that is kept uses"
    command.add_argument("--remove", action="store_true", help=text)
    text = "an S3 server that is not AWS"
    command.add_argument("--endpoint", default="", metavar="URL", help=text)


def _sample_arguments(command: argparse.ArgumentParser) -> None:
    """What takes the place of a run file on a workstation."""
    group = command.add_argument_group("without a run file (with --prompt or --prompts)")
    group.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="can be repeated")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line")
    group.add_argument(
        "--preset", choices=get_args(Preset), help="by default mochi-1 with --model, else nano"
    )
    group.add_argument(
        "--model",
        metavar="ADDRESS",
        help="folder, s3://bucket/prefix or hf://owner/name with the published files or those of Diffusers",
    )
    text = "in Diffusers' or the native format; can be repeated, effects times WEIGHT add up"
    group.add_argument("--lora", action="append", default=[], metavar="FILE[:WEIGHT]", help=text)
    group.add_argument("--seed", type=int, metavar="N", help="the same seed makes the same video")
    group.add_argument("--steps", type=int, metavar="N", help="by default 64")
    group.add_argument("--guidance", type=float, metavar="X", help="by default 6.0")
    text = "8 steps, threshold 0.1, 6 linear steps, guidance 1.5"
    group.add_argument("--fast", action="store_true", help=text)
    for name in ("frames", "width", "height", "fps"):
        group.add_argument(f"--{name}", type=int, metavar="N")
    text = "folder for sample-00.mp4, sample-00.png, ..., by default samples"
    group.add_argument("--out", type=Path, default=Path("samples"), metavar="DIR", help=text)


if __name__ == "__main__":
    sys.exit(main())
