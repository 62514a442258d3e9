"""SIGTERM at any moment before the first step, imports and downloads included, ends a training soon and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mochi_api.runfile import RunFile
from mochi_trainer.storage import open_store
from mochi_trainer.weights import load_dit, save_weights
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import free_port
from tests.trainer.fault_proxy import Fault, Request, Shaped, fault_proxy
from tests.trainer.training_runs import run_file, write_dataset

SECONDS = 60
"""Much less than what is stopped would take, and more than a busy machine needs to end a process."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    write_dataset(folder)
    (folder / "model").mkdir()
    save_weights(load_dit("nano"), folder / "model/dit.safetensors", dtype=torch.float32, metadata={})
    return folder


def on_server(root: Path, server: Server, name: str, **options: Any) -> RunFile:
    """A training that reads everything from the server; its files are put there."""
    run = run_file(root, name=name, steps=50_000, checkpoint={"everySteps": 50_000}, **options)
    store = open_store(f"s3://{BUCKET}/{name}", server.spec)
    for part in ("cache", "model"):
        for path in (root / part).rglob("*"):
            if path.is_file():
                store.put(path, path.relative_to(root).as_posix())
    places = {key: f"s3://{BUCKET}/{name}/{key}" for key in ("cache", "run", "model")}
    return run.model_copy(update={"s3": server.spec, "locations": run.locations.model_copy(update=places)})


def stopped(
    run: RunFile,
    folder: Path,
    ready: Callable[[subprocess.Popen[bytes]], bool],
    numbers: Sequence[signal.Signals] = (signal.SIGTERM,),
) -> tuple[int, str]:
    """Exit code and reason of a training that gets SIGTERM, or the signals `numbers`, as soon as `ready`."""
    folder.mkdir()
    (folder / "run.yaml").write_text(run.to_yaml())
    environment = {
        **os.environ,
        "MOCHI_TERMINATION_LOG": str(folder / "termination"),
        "MOCHI_POD_IP": "127.0.0.1",
        "MOCHI_METRICS_PORT": str(free_port()),
        "TMPDIR": str(folder),
    }
    command = [sys.executable, "-m", "mochi_trainer", "train", "--run", str(folder / "run.yaml")]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log) as process,
    ):
        try:
            end = time.monotonic() + 120
            while not ready(process):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.01)
            for number in numbers:
                process.send_signal(number)
                time.sleep(0.1)
            code = process.wait(timeout=SECONDS)
        finally:
            process.kill()
    termination = folder / "termination"
    return code, json.loads(termination.read_text())["reason"] if termination.exists() else ""


def maps(part: str) -> Callable[[subprocess.Popen[bytes]], bool]:
    """Whether a library is mapped into the process: it is being imported."""
    return lambda process: part in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize(
    "library", ["_pydantic_core", "libtorch_cpu.so", "libtorch_python.so", "safetensors"]
)
def test_sigterm_is_heard_while_libraries_are_imported(root: Path, tmp_path: Path, library: str) -> None:
    run = run_file(root, name=f"imports-{library}")
    assert stopped(run, tmp_path / "pod", maps(library)) == (143, "Preempted")
    assert not (root / f"runs/imports-{library}/checkpoints").exists()
    assert not list((tmp_path / "pod").glob("mochi-*"))


READS = {
    "the claim": lambda request: request.method == "PUT" and "/attempts/" in request.path,
    "the dataset": lambda request: request.method == "GET" and "clip-0" in request.path,
    "the weights": lambda request: request.method == "GET" and "dit.safetensors" in request.path,
    "the list of checkpoints": lambda request: request.query.get("prefix", [""])[0].endswith(
        "run/checkpoints/"
    ),
}


@pytest.mark.parametrize("what", READS)
def test_sigterm_is_heard_while_the_store_is_slow(
    root: Path, tmp_path: Path, s3_server: Server, what: str
) -> None:
    """Each answer would take minutes."""
    seen: list[Request] = []

    def rule(request: Request) -> Fault | None:
        if READS[what](request):
            seen.append(request)
            return Shaped(seconds=75)
        return None

    run = on_server(root, s3_server, what.replace(" ", "-"))
    with fault_proxy(s3_server.spec, rule) as proxy:
        slow = run.model_copy(update={"s3": proxy.spec})
        assert stopped(slow, tmp_path / "pod", lambda _: bool(seen)) == (143, "Preempted")
    assert not list((s3_server.folder / run.run.name / "run").glob("checkpoints/*"))
    assert not list((tmp_path / "pod").glob("mochi-*"))


def test_sigterm_is_heard_while_clips_do_not_come_and_the_steps_before_are_saved(
    tmp_path: Path, s3_server: Server
) -> None:
    """The store hangs in the middle of the training, which has read about half of its clips."""
    write_dataset(tmp_path / "data", clips=40)
    (tmp_path / "data/model").mkdir()
    save_weights(load_dit("nano"), tmp_path / "data/model/dit.safetensors", dtype=torch.float32, metadata={})
    run = on_server(tmp_path / "data", s3_server, "clips-do-not-come")
    seen: list[float] = []

    def rule(request: Request) -> Fault | None:
        if request.method == "GET" and "/clip-" in request.path:
            seen.append(time.monotonic())
        return Shaped(seconds=75) if len(seen) > 60 and "/clip-" in request.path else None

    def stands(_: subprocess.Popen[bytes]) -> bool:
        return len(seen) > 60 and time.monotonic() - seen[60] > 6

    with fault_proxy(s3_server.spec, rule) as proxy:
        slow = run.model_copy(update={"s3": proxy.spec})
        assert stopped(slow, tmp_path / "pod", stands) == (143, "Preempted")
    (saved,) = (s3_server.folder / run.run.name / "run").glob("checkpoints/*/manifest.json")
    assert json.loads(saved.read_text())["details"]["position"]["step"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_training_by_hand_that_is_stopped_saves_the_step_at_hand(
    root: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = run_file(root, name=f"by-hand-{number.name}", steps=50_000, checkpoint={"everySteps": 50_000})
    folder = tmp_path / "first"
    found = stopped(run, folder, lambda _: "step 1 of 50000: loss" in (folder / "log").read_text(), [number])
    assert found == (143, "Preempted")
    told = re.search(
        rf"stopped by {number.name} after step (\d+), saved at step (\d+)", (folder / "log").read_text()
    )
    assert told is not None
    assert told[1] == told[2]
    again = tmp_path / "again"
    stopped(run, again, lambda _: f"resumed after step {told[1]} of" in (again / "log").read_text())


def test_a_second_interruption_waits_for_nothing(root: Path, tmp_path: Path) -> None:
    run = run_file(root, name="impatient", steps=50_000, checkpoint={"everySteps": 50_000})
    folder = tmp_path / "first"
    signals = [signal.SIGINT] * 2
    code, _ = stopped(run, folder, lambda _: "step 1 of 50000: loss" in (folder / "log").read_text(), signals)
    assert code in (143, -signal.SIGINT)
