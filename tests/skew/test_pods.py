"""What pods of one version tell an operator of the other: outcomes, progress, and that they do not know a step."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mochi_api.outcomes import ROWS, TABLE, TERMINATION_LOG_BYTES, Outcome, Reason
from mochi_api.progress import PORT
from tests.operator.world import End, World, well
from tests.skew.pinned import LIMIT_SECONDS, Checkout

ADDRESSES = {"old": "127.77.64.1", "new": "127.77.64.2"}
"""Loopback addresses of their own: the port is fixed."""

SERVE = """
import contextlib, inspect, sys
from mochi_trainer.train.gauges import Gauges
from mochi_trainer.train.step import StepRecord
try:
    from mochi_trainer.train.server import served
except ImportError:  # its name in the pinned version
    from mochi_trainer.train.progress import served

gauges = Gauges(total_steps=10)
record = StepRecord(step=4, loss=0.5, gradient_norm=2.0, learning_rate=0.1, seconds=0.5)
gauges.stepped(record, non_finite=1)
timed = {"seconds": 2.0} if "seconds" in inspect.signature(gauges.saved).parameters else {}
gauges.saved(3, "s3://runs/x", **timed)
with contextlib.ExitStack() as stack:
    signs = []
    if hasattr(gauges, "signs"):  # the pinned version tells its progress and no more
        from mochi_trainer.movement import PROCESS

        stack.enter_context(PROCESS.described(gauges.signs))
        signs = [PROCESS]
    print(stack.enter_context(served(gauges, *signs, progress=True, address=sys.argv[1])), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def serving(version: Checkout, address: str) -> Iterator[None]:
    """Rank 0 of a training of this version, in its fourth step, for as long as the context lasts."""
    process = version.start("-c", SERVE, address)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], LIMIT_SECONDS)
        said = process.stdout.readline().strip() if ready else f"nothing within {LIMIT_SECONDS:.0f} s"
        assert said == f"http://{address}:{PORT}", said
        yield
    finally:
        try:
            process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def sides(old: Checkout, new: Checkout) -> dict[str, Checkout]:
    """Both versions by name."""
    return {"old": old, "new": new}


@pytest.mark.parametrize("writer", ["old", "new"])
def test_every_success_of_a_trainer_is_read_whole_by_the_operators_of_both_versions(
    writer: str, sides: dict[str, Checkout]
) -> None:
    lines = sides[writer].ask("write_outcomes", None)
    for reader, side in sides.items():
        read = side.ask("read_outcomes", [{"line": line} for line in lines.values()])
        for (name, line), found in zip(lines.items(), read, strict=True):
            assert found is not None, f"{name}: not read by {reader}: {line}"
            assert _without_none(found) == _without_none(json.loads(line)), (name, reader)


def _without_none(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _without_none(value) for key, value in document.items() if value is not None}
    return document


FAILURES = [row for row in TABLE if row.exit_code]


def test_the_pinned_operator_makes_of_a_failure_what_this_one_does_at_least_by_its_exit_code(
    old: Checkout,
) -> None:
    told = [
        Outcome(
            reason=row.reason, message="why", action="what to do", reportURI="s3://b/report.html"
        ).to_line()
        for row in FAILURES
    ]
    found = old.ask(
        "verdicts", [{"line": line, "code": row.exit_code} for line, row in zip(told, FAILURES, strict=True)]
    )
    later = {Reason.SUPERSEDED: Reason.UNKNOWN}
    assert [item["reason"] for item in found] == [later.get(row.reason, row.reason) for row in FAILURES]
    assert [item["again"] for item in found] == [row.retryable for row in FAILURES]


@pytest.mark.parametrize("server", ["old", "new"])
def test_the_progress_of_a_training_is_known_to_the_operators_of_both_versions(
    server: str, sides: dict[str, Checkout]
) -> None:
    address = ADDRESSES[server]
    with serving(sides[server], address):
        answers = {reader: side.ask("read_progress", address) for reader, side in sides.items()}
    for reader, found in answers.items():
        assert found is not None, f"no answer that {reader} could read"
        done, total = ("step", "totalSteps") if reader == "old" else ("done", "total")
        assert (found[done], found[total]) == (4, 10)
        assert (found["loss"], found["gradNorm"], found["nonFinite"]) == (0.5, 2.0, 1)
        assert (found["checkpointStep"], found["checkpointUri"]) == (3, "s3://runs/x")


def test_the_pinned_trainer_ends_with_2_and_says_nothing_when_asked_for_check(
    old: Checkout, tmp_path: Path
) -> None:
    log = tmp_path / "termination-log"
    done = old.run(
        "-m",
        "mochi_trainer",
        "check",
        "--run",
        str(tmp_path / "run.yaml"),
        env={"MOCHI_TERMINATION_LOG": str(log)},
    )
    assert done.returncode == 2, done.stderr
    assert not log.exists()
    assert "invalid choice: 'check'" in done.stderr


async def test_the_engine_goes_on_without_a_check_that_the_image_does_not_know() -> None:
    world = World()
    world.script = lambda stage, attempt, rank: End(2) if stage == "check" else well(stage, attempt, rank)
    await world.until(lambda w: w.phase == "Succeeded")
    checked = world.condition("Checked")
    assert (checked["status"], checked["reason"]) == ("Unknown", "Skipped")
    assert "does not know check" in checked["message"]
    assert [name for name in world.cluster.names("Job") if "check" in name] == ["dissolve-check"]


async def test_a_check_that_refuses_the_input_with_the_same_exit_code_is_no_unknown_command() -> None:
    world = World()
    refused = End(2, Outcome(reason=Reason.INVALID_INPUT, message="training.steps must be at least 1, got 0"))
    world.script = lambda stage, attempt, rank: refused if stage == "check" else well(stage, attempt, rank)
    await world.until(lambda w: w.phase == "Failed")
    assert world.condition("Failed")["reason"] == "InvalidInput"
    assert ROWS[Reason.INVALID_INPUT].exit_code == 2


def test_the_trainer_refuses_a_field_of_a_newer_version_with_2_and_names_it(
    new: Checkout, tmp_path: Path
) -> None:
    run, log = tmp_path / "run.yaml", tmp_path / "termination-log"
    run.write_text(json.dumps(_with_a_newer_field()), encoding="utf-8")
    done = new.run("-m", "mochi_trainer", "trim", "--run", str(run), env={"MOCHI_TERMINATION_LOG": str(log)})
    assert done.returncode == 2, done.stderr
    outcome = Outcome.model_validate_json(log.read_text(encoding="utf-8").splitlines()[-1])
    assert outcome.reason is Reason.INVALID_INPUT
    assert "training.distillation" in outcome.message
    assert len(log.read_bytes()) <= TERMINATION_LOG_BYTES


def _with_a_newer_field() -> dict[str, Any]:
    return {
        "schemaVersion": 1,
        "stage": "trim",
        "run": {"namespace": "videos", "name": "x", "uid": "u"},
        "mode": "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": "s3://clips/dissolve/"}}},
        "preprocessing": {},
        "training": {"distillation": "0.5"},
        "sampling": {},
        "s3": {},
        "locations": {"dataset": "file:///clips", "cache": "file:///cache", "run": "file:///out"},
    }
