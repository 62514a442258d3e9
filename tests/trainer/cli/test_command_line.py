"""Whatever happens, there is an exit code of the table, a termination message, a record and a report."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mochi_api.heartbeat import LINE_PREFIX, newest
from mochi_api.outcomes import TABLE, Outcome
from mochi_api.runfile import STAGES, RunFile, RunFileError
from mochi_api.spec import S3Spec
from mochi_trainer.__main__ import main
from mochi_trainer.__main__ import run_file as read_run_file
from mochi_trainer.arguments import command_line
from tests.trainer.preprocessing_runs import run_file, write_source

Command = Callable[[str, RunFile | str], tuple[int, Outcome]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch) -> Iterator[Command]:
    """Run a command in this process; signals, logging and environment are as before afterwards."""
    monkeypatch.setenv("MOCHI_TERMINATION_LOG", str(tmp_path / "termination"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(stage: str, run: RunFile | str) -> tuple[int, Outcome]:
        path = tmp_path / "run.yaml"
        path.write_text(run if isinstance(run, str) else run.to_yaml())
        code = main([stage, "--run", str(path)])
        (line,) = (tmp_path / "termination").read_text().splitlines()
        return code, Outcome.model_validate_json(line)

    yield run
    signal.signal(signal.SIGTERM, handler)
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def test_a_stage_that_succeeds_leaves_outcome_record_run_file_and_report(
    tmp_path: Path, command: Command
) -> None:
    write_source(tmp_path / "source")
    code, outcome = command("trim", run_file(tmp_path))
    assert code == 0
    known_to_older_operators = {"reason", "message", "rank", "stageResult"}
    assert set(json.loads((tmp_path / "termination").read_text())) == known_to_older_operators
    assert outcome.reason == "Completed"
    assert outcome.stage_result is not None
    assert outcome.stage_result.items_done == 2
    folder = tmp_path / "runs" / "0-1"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "report.html", "run.yaml", "stages/trim.json",
    ]  # fmt: skip
    record = json.loads((folder / "stages" / "trim.json").read_text())
    assert record["outcome"]["stageResult"]["cacheKey"] == outcome.stage_result.cache_key
    assert record["seconds"] > 0


def test_a_stage_that_fails_leaves_a_report_that_says_why(tmp_path: Path, command: Command) -> None:
    write_source(tmp_path / "source")
    (tmp_path / "source" / "bunny.txt").unlink()
    code, outcome = command("trim", run_file(tmp_path))
    assert (code, outcome.reason) == (3, "MissingObject")
    page = (tmp_path / "runs" / "0-1" / "report.html").read_text()
    assert "Failed: MissingObject" in page
    assert "bunny.txt does not exist" in page
    assert "write the captions that are missing, or set preprocessing.missingCaption to Empty or Skip" in page


def test_a_rejected_dataset_hands_on_its_failures(tmp_path: Path, command: Command) -> None:
    write_source(tmp_path / "source")
    for number in range(10):
        (tmp_path / "source" / f"bad-{number:02d}.mp4").write_bytes(b"")
        (tmp_path / "source" / f"bad-{number:02d}.txt").write_text("bad")
    code, outcome = command("trim", run_file(tmp_path))
    assert (code, outcome.reason) == (4, "DatasetRejected")
    assert outcome.stage_result is not None
    assert (outcome.stage_result.items_total, outcome.stage_result.items_failed) == (12, 10)
    assert len(outcome.stage_result.failures) == 8
    record = json.loads((tmp_path / "runs" / "0-1" / "stages" / "trim.json").read_text())
    assert len(record["failures"]) == 10


def test_a_store_that_does_not_answer_is_worth_another_try_and_hides_nothing(
    tmp_path: Path, command: Command, monkeypatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    spec = S3Spec(endpoint="http://127.0.0.1:9", path_style=True)
    code, outcome = command("trim", run_file("s3://data/x", s3=spec))
    assert (code, outcome.reason) == (6, "StorageError")
    assert "http://127.0.0.1:9" in outcome.message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("stage: [", "not YAML"),
        ("", "document: input should be a valid dictionary"),
    ],
)
def test_a_wrong_run_file_is_invalid_input_with_its_fields(text: str, part: str, command: Command) -> None:
    code, outcome = command("trim", text)
    assert (code, outcome.reason) == (2, "InvalidInput")
    assert part in outcome.message


def test_an_unknown_field_of_a_file_by_hand_is_invalid_input(tmp_path: Path, command: Command) -> None:
    code, outcome = command("trim", run_file(tmp_path).to_yaml() + "surprise: 1\n")
    assert (code, outcome.reason, outcome.message) == (2, "InvalidInput", "surprise: there is no such field")


def test_an_unknown_field_of_the_operators_file_is_ignored(tmp_path: Path) -> None:
    """The operator may be newer than the image of its run."""
    run = run_file(tmp_path)
    path = tmp_path / "mounted.yaml"
    path.write_text(run.to_yaml() + "surprise: 1\n")
    assert read_run_file(path, "trim", mounted=path) == run
    with pytest.raises(RunFileError, match="surprise: there is no such field"):
        read_run_file(path, "trim")


def test_what_the_user_asked_for_is_never_ignored(tmp_path: Path) -> None:
    path = tmp_path / "mounted.yaml"
    path.write_text(run_file(tmp_path).to_yaml().replace("dataset:\n", "dataset:\n  upsideDown: true\n", 1))
    with pytest.raises(RunFileError, match=r"does not know spec\.dataset\.upsideDown: name an image"):
        read_run_file(path, "trim", mounted=path)


def test_an_absent_run_file_is_invalid_input(tmp_path: Path, command: Command) -> None:
    assert main(["trim", "--run", str(tmp_path / "none.yaml")]) == 2
    assert "there is no run file" in (tmp_path / "termination").read_text()


def test_a_termination_log_that_cannot_be_written_is_no_failure(
    tmp_path: Path, command: Command, monkeypatch
) -> None:
    write_source(tmp_path / "source")
    (tmp_path / "again.yaml").write_text(run_file(tmp_path).to_yaml())
    monkeypatch.setenv("MOCHI_TERMINATION_LOG", str(tmp_path / "no" / "folder"))
    assert main(["trim", "--run", str(tmp_path / "again.yaml")]) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "apiVersion: mochi.finetune.dev/v1alpha1\nkind: MochiFineTune\nspec: {}",
            "this is a 'MochiFineTune' of Kubernetes",
        ),
        (
            "frames",
            "preprocessing.frames must be 1 more than a multiple of 6, got 12; the nearest are 7 and 13",
        ),
    ],
)
def test_what_no_api_server_has_seen_is_refused_alike(
    text: str, words: str, tmp_path: Path, command: Command
) -> None:
    code, outcome = command("trim", run_file(tmp_path, frames=12) if text == "frames" else text)
    assert (code, outcome.reason) == (2, "InvalidInput")
    assert words in outcome.message


def test_help_lists_commands_and_every_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mochi_trainer", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for word in (*STAGES, *(row.reason for row in TABLE if row.exit_code is not None), "AWS_ACCESS_KEY_ID"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("command", "name"), [("captions", "T5 features"), ("plan", "which GPU"), ("export", "a LoRA")]
)
def test_descriptions_keep_the_names_in_them(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line().parse_args([command, "--help"])
    assert name in " ".join(capsys.readouterr().out.split())


def test_sigterm_ends_a_stage_cleanly_with_143_and_json_logs(tmp_path: Path) -> None:
    write_source(tmp_path / "source")
    for number in range(60):
        os.link(tmp_path / "source" / "bunny.mp4", tmp_path / "source" / f"more-{number}.mp4")
        (tmp_path / "source" / f"more-{number}.txt").write_text("more")
    (tmp_path / "run.yaml").write_text(run_file(tmp_path, width=848, height=480, frames=37).to_yaml())
    environment = {
        **os.environ,
        "MOCHI_TERMINATION_LOG": str(tmp_path / "termination"),
        "TMPDIR": str(tmp_path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mochi_trainer", "trim", "--run", str(tmp_path / "run.yaml")],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(tmp_path.glob("mochi-trim-*/*")):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143
    outcome = Outcome.model_validate_json((tmp_path / "termination").read_text())
    assert outcome.reason == "Preempted"
    assert list(tmp_path.glob("mochi-trim-*")) == []
    sign = newest(log)
    assert sign is not None
    assert sign.attempt == 1
    lines = [json.loads(line) for line in log.splitlines() if not line.startswith(LINE_PREFIX)]
    assert lines[-1]["message"].startswith("Preempted: stopped by SIGTERM")
    assert "Stopped: Preempted" in (tmp_path / "runs" / "0-1" / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "s3://bucket/lora.safetensors"],
        ["export", "https://example.org/lora.safetensors:0.5", "--to", "native", "--out", "out"],
        ["plan", "s3://bucket/run.yaml"],
        ["sample", "--prompt", "x", "--lora", "hf://owner/name/lora.safetensors"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_address_in_the_place_of_a_file_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "must be a file on this machine, got" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "arguments",
    [["footage", ".", "--seconds"], ["cache", "file:///x", "--young-days"]],
    ids=lambda words: words[0],
)
def test_a_number_that_is_not_finite_is_told(arguments: list[str], number: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments[:-1], f"{arguments[-1]}={number}"])
    assert caught.value.code == 2
