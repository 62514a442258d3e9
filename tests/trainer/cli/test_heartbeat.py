"""The sign of life: a line of the log at once and ever so often, which tells a process that works from one that hangs."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi_api.heartbeat import LINE_PREFIX, LINE_SECONDS, Heartbeat, newest, parse
from mochi_api.outcomes import Outcome
from mochi_trainer import logs
from mochi_trainer.movement import EVERY_SECONDS, Movement, heartbeats
from tests.trainer.distributed import free_port
from tests.trainer.training_runs import run_file, write_dataset


class Clock:
    """A clock that a test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Logging as it was before, after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def signs(text: str) -> list[Heartbeat]:
    return [
        sign
        for line in text.splitlines()
        if line.startswith(LINE_PREFIX) and (sign := parse(line.removeprefix(LINE_PREFIX)))
    ]


def wait_for(stream: io.StringIO, count: int) -> list[Heartbeat]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if len(found := signs(stream.getvalue())) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{count} lines did not come within 30 s: {stream.getvalue()}")


def test_quiet_is_the_time_since_something_moved() -> None:
    clock = Clock()
    movement = Movement(clock=clock)
    clock.now += 7
    assert movement.heartbeat() == Heartbeat(attempt=0, activity="starting", quiet_seconds=7)
    movement.attempt = 3
    movement.doing("loading")
    clock.now += 2
    movement.moved()
    clock.now += 0.5
    assert movement.heartbeat() == Heartbeat(attempt=3, activity="loading", quiet_seconds=0.5)
    movement.worked(4, 9)
    assert movement.heartbeat() == Heartbeat(attempt=3, activity="working", quiet_seconds=0, done=4, total=9)


def test_the_lines_of_a_thread_that_hangs_show_that_it_does(root_logger: None) -> None:
    """The thread that writes them goes on, and does not count as movement."""
    clock, stream = Clock(), io.StringIO()
    logs.set_up(stream=stream)
    movement = Movement(clock=clock)
    with heartbeats(movement, every=0.01):
        first = wait_for(stream, 1)[0]
        clock.now += 1000
        count = len(signs(stream.getvalue()))
        last = wait_for(stream, count + 3)[-1]
    assert (first.quiet_seconds, last.quiet_seconds) == (0, 1000)


def test_the_lines_end_with_the_block(root_logger: None) -> None:
    stream = io.StringIO()
    logs.set_up(stream=stream)
    with heartbeats(Movement(), every=0.01):
        wait_for(stream, 2)
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeats"]


def test_lines_come_more_often_than_is_promised() -> None:
    assert EVERY_SECONDS <= LINE_SECONDS - 3


def test_a_line_stands_alone_among_those_of_json(root_logger: None) -> None:
    stream = io.StringIO()
    logs.set_up(stream=stream, rank=0)
    logging.getLogger("x").info("before")
    with heartbeats(Movement()):
        wait_for(stream, 1)
    logging.getLogger("x").info("after")
    first, line, last = stream.getvalue().splitlines()
    assert (json.loads(first)["message"], json.loads(last)["message"]) == ("before", "after")
    assert line.startswith(LINE_PREFIX + "{")
    assert newest(stream.getvalue()) == parse(line.removeprefix(LINE_PREFIX))


def test_a_person_at_a_terminal_sees_none(root_logger: None) -> None:
    stream = Terminal()
    logs.set_up(stream=stream)
    with heartbeats(Movement(), every=0.01):
        logging.getLogger("x").info("hello")
    assert "hello" in stream.getvalue()
    assert LINE_PREFIX not in stream.getvalue()


def test_sigterm_during_the_imports_of_a_training_is_heard(tmp_path: Path) -> None:
    """The first process of a container ignores a signal that it has no handler for."""
    write_dataset(tmp_path)
    (tmp_path / "run.yaml").write_text(run_file(tmp_path, steps=100_000).to_yaml())
    process = subprocess.Popen(
        [sys.executable, "-m", "mochi_trainer", "train", "--run", tmp_path / "run.yaml"],
        env={
            **os.environ,
            "MOCHI_TERMINATION_LOG": str(tmp_path / "termination"),
            "MOCHI_POD_IP": "127.0.0.1",
            "MOCHI_METRICS_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(LINE_PREFIX)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    assert Outcome.model_validate_json((tmp_path / "termination").read_text()).reason == "Preempted"


@pytest.mark.parametrize(("rank", "expected"), [("0", 1), ("1", 0)])
def test_the_first_line_comes_before_the_imports_of_the_job_and_from_rank_0(
    tmp_path: Path, rank: str, expected: int
) -> None:
    (tmp_path / "run.yaml").write_text(run_file(tmp_path).to_yaml())
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mochi_trainer", "train", "--run", tmp_path / "run.yaml"],
        env={**os.environ, "RANK": rank, "MOCHI_TERMINATION_LOG": str(tmp_path / "termination")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stderr.splitlines()
    found = [number for number, line in enumerate(lines) if line.startswith(LINE_PREFIX)]
    assert len(found[:1]) == expected
    torch_is_there = next(number for number, line in enumerate(lines) if line.endswith("| torch"))
    assert all(number < torch_is_there for number in found[:1])
    assert all(sign.activity == "starting" for sign in signs(done.stderr)[:1])
