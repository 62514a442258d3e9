"""The command line: `python -m mochi_trainer <check|trim|captions|videos|train|sample|preview> --run FILE`,
`sample --prompt TEXT`, `inspect FILE`, `export FILE --to FORM`, `preprocess ADDRESS`,
`cache ADDRESS`, `footage DIR`, `plan FILE` and `bench`.

Whatever happens, the process exits with a code of `mochi_api.outcomes`, leaves its outcome in the termination log and,
while the store answers, its record and the report in the run's folder.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # the first process of a container never gets what comes while nobody listens
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    from mochi_trainer import beginning

    beginning.begin_anew()

import argparse
import atexit
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar, cast

from mochi_api.identity import SHARD_ENV
from mochi_api.outcomes import ROWS, TERMINATION_LOG, Outcome, Reason
from mochi_api.rules.run_files import broken_rules
from mochi_api.runfile import (
    DEFAULTS,
    DEFAULTS_FILE,
    RUN_FILE_PATH,
    RunFile,
    RunFileError,
    Stage,
    World,
    parse,
)
from mochi_api.spec import S3Spec
from mochi_trainer import advice_by_hand, cpus, ending, logs, streams
from mochi_trainer.arguments import TERMINATION_LOG_ENV, command_line
from mochi_trainer.ending import Ending
from mochi_trainer.errors import InvalidInputError, TrainerError
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.movement import PROCESS, heartbeats
from mochi_trainer.parallel.ranks import LOCAL_WORLD
from mochi_trainer.parallel.stop import Stop, end_with_parent
from mochi_trainer.report.record import StageRecord, versions

log = logging.getLogger("mochi_trainer")

R = TypeVar("R")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = command_line().parse_args(argv)
    by_hand = BY_HAND.get(arguments.command)
    if arguments.command == "sample" and (arguments.prompt or arguments.prompts):
        by_hand = _sample
    if by_hand is not None:
        _listen()
        return _by_hand(lambda: by_hand(arguments))
    stage = cast(Stage, arguments.command)
    if stage == "train" and (world := _several(arguments.run)) is not None:
        return _launch(world)
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
        _leave(ended.outcome)  # whatever comes of the report
        if run is not None:
            ended = _published(run, ended, started)
    _tell(ended.outcome)
    _leave(ended.outcome)
    return ROWS[ended.outcome.reason].exit_code or 0


def _several(path: Path) -> World | None:
    """The world of a training for which this process has to start one for each GPU of its pod; None of any other.

    What is wrong with the run file is said by the process that trains, or would.
    """
    if os.environ.get(LOCAL_WORLD):
        end_with_parent()
        return None
    try:
        world = run_file(path, "train").world
    except (InvalidInputError, RunFileError):
        return None
    return world if world.gpus_per_pod > 1 else None


def _launch(world: World) -> int:
    """Train in one process for each GPU, and end as they do; record and report are theirs."""
    logs.set_up()
    with Stop() as stop:
        _listen()
        from mochi_trainer import launching  # torch is imported only now

        try:
            outcome, code = launching.launched(launching.command(), world, os.environ, stop)
        except InvalidInputError as error:
            outcome, code = ending.failure(error, 0).outcome, error.exit_code
    _tell(outcome)
    _leave(outcome)
    return code


def _by_hand(command: Callable[[], None]) -> int:
    """Do what has no run file: the same exit codes, but no record and no report."""
    streams.made_ready()
    logs.set_up()
    cpus.limit_threads()
    try:
        command()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and streams.reader_gone():
            return streams.READER_GONE
        outcome = ending.failure(error, 0).outcome
        if outcome.reason is Reason.BUG:
            log.exception("a defect of the trainer")
        _tell(outcome.model_copy(update={"action": advice_by_hand.action(outcome.reason, outcome.action)}))
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


def _bench(arguments: argparse.Namespace) -> None:
    from mochi_trainer.jobs.bench import command  # as above

    command.bench(_request(command.Request, arguments), sys.stdout)


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
    "bench": _bench,
}


def _request(kind: Callable[..., R], arguments: argparse.Namespace) -> R:
    """What was given on the command line as the dataclass `kind`, whose fields have the names of the options."""
    return kind(**{name: getattr(arguments, name) for name in inspect.signature(kind).parameters})


def _run(stage: Stage, path: Path, rank: int, signs: ExitStack, stop: _Stop) -> tuple[RunFile | None, Ending]:
    run: RunFile | None = None
    try:
        _listen()
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
    """The run file at `path`: one by hand may have a typo, the one that is `mounted` that of a newer or an older operator.

    Raises InvalidInputError when it cannot be read, RunFileError when it is not one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        other = " or prompts with --prompt" if stage == "sample" else ""
        raise InvalidInputError(
            f"there is no run file {path}", action=f"give one with --run{other}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"run file {path} cannot be read: {_words(error)}") from error
    by_hand = path != mounted
    trains = stage == "train"  # what the other steps do, no default has changed
    known = _defaults(path.with_name(DEFAULTS_FILE)) if trains and not by_hand else DEFAULTS
    run = parse(text, strict=by_hand, defaults=known)
    if by_hand and (broken := broken_rules(run)):
        raise RunFileError("; ".join(broken))
    return run.model_copy(update={"stage": stage})


def _words(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _defaults(file: Path) -> int:
    """Those that the operator knew; one that wrote no such file knew none."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if text.isdecimal() else 0


def _listen() -> None:
    """Get SIGTERM, and now the one that has come since the process began."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


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
        """Raise KeyboardInterrupt if the signal has come, which is caught by fewer libraries than any error of ours."""
        if self._requested:
            raise KeyboardInterrupt("stopped by SIGTERM; what other runs can reuse is kept")


def _published(run: RunFile, ended: Ending, started: datetime) -> Ending:
    """Store the record and the report; a store that does not answer now changes nothing about how the job ended."""
    from mochi_trainer.jobs import check  # what makes pages is not in memory while the job works
    from mochi_trainer.report.publishing import publish

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


def _end(code: int) -> NoReturn:
    """End the process now: Python would wait for threads that hang in a request, and all has been said and stored."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    if (code := main()) == 0:
        sys.exit(0)
    _end(code)
