"""The command check from outside: exit code, termination message, remedy, record and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import RunFile
from mochi_api.spec import S3Spec
from mochi_trainer.errors import StorageError
from mochi_trainer.jobs.check import publish_in_time
from mochi_trainer.jobs.checks.places import Limits
from mochi_trainer.report.record import StageRecord
from mochi_trainer.storage import Patience
from tests.trainer.jobs_check.servers import silent_server
from tests.trainer.preprocessing_runs import run_file, write_source

SECONDS = 60
"""What issue and docs promise."""


def command(tmp_path: Path, run: RunFile, stage: str = "check") -> tuple[int, Outcome, str]:
    """Exit code, outcome and log of a command in a process of its own."""
    (tmp_path / "run.yaml").write_text(run.to_yaml())
    done = subprocess.run(
        [sys.executable, "-m", "mochi_trainer", stage, "--run", str(tmp_path / "run.yaml")],
        env={
            **os.environ,
            "MOCHI_TERMINATION_LOG": str(tmp_path / "termination"),
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, Outcome.model_validate_json((tmp_path / "termination").read_text()), done.stderr


def test_a_good_run_ends_with_what_was_checked(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    code, outcome, _ = command(tmp_path, run_file(tmp_path))
    assert (code, outcome.reason, outcome.report_uri) == (0, "Completed", None)
    assert outcome.check_result is not None
    assert outcome.check_result.clips == 2
    assert len(outcome.check_result.checked) == 4
    folder = tmp_path / "runs" / "0-1"
    record = json.loads((folder / "stages" / "check.json").read_text())
    assert record["outcome"]["checkResult"]["clips"] == 2
    page = (folder / "report.html").read_text()
    assert "2 of 2 clips at file://" in page
    assert "Finished so far: check." in page


def test_a_bad_run_ends_with_the_remedy_and_the_address_of_its_report(tmp_path: Path) -> None:
    code, outcome, log = command(tmp_path, run_file(tmp_path))
    assert (code, outcome.reason) == (4, "DatasetRejected")
    assert outcome.action is not None
    assert outcome.action.startswith("upload clips there or correct dataset.source")
    assert f"what to do: {outcome.action}" in log
    assert outcome.report_uri == f"file://{tmp_path}/runs/0-1/report.html"
    page = (tmp_path / "runs" / "0-1" / "report.html").read_text()
    assert "In the stage check: no MP4 or MOV file below" in page
    assert f"{outcome.action}." in page


def test_a_failed_stage_of_any_kind_names_its_report(tmp_path: Path) -> None:
    code, outcome, _ = command(tmp_path, run_file(tmp_path), "trim")
    assert (code, outcome.reason) == (4, "DatasetRejected")
    assert outcome.report_uri == f"file://{tmp_path}/runs/0-1/report.html"
    assert outcome.action is not None
    assert "maxFailedItemsPercent" not in outcome.action


def test_a_store_that_has_not_answered_is_not_asked_for_room_for_the_report() -> None:
    record = StageRecord(
        stage="check", outcome=Outcome(reason=Reason.STORAGE_ERROR), started="2026-01-01T00:00:00", seconds=1
    )
    with silent_server() as endpoint, pytest.raises(StorageError, match="has not answered the check"):
        publish_in_time(run_file("s3://data/x", s3=S3Spec(endpoint=endpoint, path_style=True)), record)


def test_a_store_that_falls_silent_after_the_check_holds_the_report_up_for_seconds_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    record = StageRecord(
        stage="check",
        outcome=Outcome(reason=Reason.MISSING_OBJECT),
        started="2026-01-01T00:00:00",
        seconds=1,
    )
    limits = Limits(patience=Patience(read_seconds=2, attempts=1, first_seconds=0), report_seconds=0.5)
    with silent_server() as endpoint, pytest.raises(StorageError, match=r"report\.html: no answer, waited"):
        publish_in_time(
            run_file("s3://data/x", s3=S3Spec(endpoint=endpoint, path_style=True)), record, limits
        )
