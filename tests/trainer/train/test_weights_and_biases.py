"""A training tells Weights & Biases what metrics.jsonl has, and neither waits for it nor fails with it."""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mochi_trainer.jobs import train
from mochi_trainer.train import weights_and_biases
from mochi_trainer.train.event_file import scalars
from tests.trainer.distributed import free_port
from tests.trainer.training_runs import run_file, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wandb")
    write_dataset(folder)
    torch.set_num_threads(1)
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    train.execute(run_file(folder, name="plain", lora={"rank": 4}))
    return folder


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mochi")
    monkeypatch.setenv("WANDB_MODE", "offline")


BLOCK, HEADER, NAME = 32 * 1024, 7, 7


def records(data: bytes) -> Iterator[bytes]:
    """Of LevelDB's log format: blocks of parts, each with checksum, length and kind (whole, first, middle, last)."""
    place, parts = NAME, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            yield parts
            parts = b""


def history(path: Path) -> Iterator[dict[str, float]]:
    """The lines of an offline run."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data.startswith(b":W&B")
    for each in records(data):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(each)
        if record.WhichOneof("record_type") == "history":
            items = ((each.key or "/".join(each.nested_key), each.value_json) for each in record.history.item)
            yield {key: json.loads(value) for key, value in items}


def same_weights(root: Path, name: str) -> bool:
    plain, ours = (load_file(root / "runs" / each / "artifacts/lora.safetensors") for each in ("plain", name))
    return plain.keys() == ours.keys() and all(torch.equal(ours[key], each) for key, each in plain.items())


def test_an_offline_run_has_the_numbers_of_metrics_jsonl_and_lies_in_the_runs_folder(root: Path) -> None:
    train.execute(run_file(root, name="offline", lora={"rank": 4}))
    (path,) = (root / "runs/offline/wandb").glob("offline-run-*/*.wandb")
    found: dict[int, dict[str, Any]] = {}
    for line in history(path):
        found.setdefault(int(line["training/step"]), {}).update(line)
    lines = [json.loads(text) for text in (root / "runs/offline/metrics.jsonl").read_text().splitlines()]
    assert len(lines) > 5
    for line in lines:
        ours = {name: found[line["step"]][f"training/{name}"] for name, _ in scalars(line)}
        assert ours == pytest.approx(dict(scalars(line)))
    assert same_weights(root, "offline")


def test_without_the_project_nothing_is_begun(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT")
    train.execute(run_file(root, name="silent", lora={"rank": 4}))
    assert not (root / "runs/silent/wandb").exists()


def test_an_image_without_the_library_says_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights_and_biases, "PACKAGE", "no_such_package")
    caplog.set_level(logging.WARNING)
    train.execute(run_file(root, name="absent", lora={"rank": 4}))
    assert "WANDB_PROJECT is mochi, but the package no_such_package is not in this image" in caplog.text
    assert same_weights(root, "absent")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40},
            "did not take the last lines within 3 s",
        ),
        ({"WANDB_BASE_URL": "no address"}, "its process ended with 1"),
        ({"WANDB_MODE": "offline"}, "W&B is told nothing: "),
    ],
    ids=["a server that does not answer", "settings that it refuses", "no room"],
)
def test_what_goes_wrong_there_is_a_warning_and_no_more(
    settings: dict[str, str],
    words: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if "told nothing" in words:
        monkeypatch.setattr(weights_and_biases, "_folder", _no_room)
    monkeypatch.setattr(weights_and_biases, "LAST_SECONDS", 3 if "3 s" in words else 60)
    caplog.set_level(logging.WARNING)
    name = words.split(maxsplit=1)[0].replace("&", "")
    train.execute(run_file(root, name=name, lora={"rank": 4}))
    assert words in caplog.text
    assert same_weights(root, name)


def test_lines_beyond_those_that_can_wait_are_dropped_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights_and_biases, "LINES", 2)
    monkeypatch.setattr(weights_and_biases, "HURRIED_SECONDS", 0.1)
    process = weights_and_biases._Process({"a line that is too long for the pipe": "x" * (1 << 20)})
    for step in range(10):
        process.add({"step": step})
    process.close(0.1)
    assert caplog.text.count("W&B takes no more lines") == 1


def _no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_process_that_was_killed_is_told_at_once_and_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = weights_and_biases._Process({})
    process._process.kill()
    process._process.wait()
    for step in range(3):
        process.add({"step": step, "loss": [0.5] * 20_000})
    process.close(20)
    assert "W&B takes no more lines: its process has ended" in caplog.text
    assert "W&B has not all lines: its process ended with -9" in caplog.text


def test_what_w_and_b_refuses_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    environment = {**os.environ, "WANDB_PROJECT": "x" * 200}
    first = json.dumps({"id": "a", "name": "a", "group": "a", "dir": "/tmp", "config": {}})
    done = subprocess.run(
        [sys.executable, "-P", "-m", weights_and_biases.__name__],
        input=first.encode() + b"\n",
        env=environment,
        check=False,
    )
    assert done.returncode == 1
    assert "W&B cannot begin: UsageError: Invalid project name" in (told := capfd.readouterr().err)
    assert "Traceback" not in told


def test_an_offline_run_of_a_later_attempt_has_the_steps_before_it_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT")
    train.execute(run_file(root, name="twice", lora={"rank": 4}))
    monkeypatch.setenv("WANDB_PROJECT", "mochi")
    train.execute(run_file(root, name="twice", lora={"rank": 4}, steps=8))
    (path,) = (root / "runs/twice/wandb").glob("offline-run-*/*.wandb")
    assert {int(line["training/step"]) for line in history(path)} == set(range(9))
