"""Several processes of one pod: the places they take, how they are stopped, and whose end is the pod's.

The processes are real, and small: programs of a few lines that do what a training may do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from mochi_api.outcomes import Outcome, Reason
from mochi_api.runfile import World
from mochi_trainer import cpus
from mochi_trainer.errors import DeviceUnavailableError, InvalidInputError
from mochi_trainer.launching import first, launched
from mochi_trainer.parallel import launch
from mochi_trainer.parallel.devices import training_device
from mochi_trainer.parallel.launch import Ended
from mochi_trainer.parallel.ranks import Ranks, places, ranks_of
from mochi_trainer.parallel.stop import Stop
from tests.trainer.training_runs import run_file

JOB = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-worker-0", "MASTER_PORT": "23456"}
PROGRAM = """
import json, os, pathlib, signal, sys, time
rank, folder = int(os.environ["RANK"]), pathlib.Path(os.environ["FOLDER"])
def leave(reason, message="", code=0):
    line = json.dumps({"reason": reason, "message": message, "rank": rank})
    pathlib.Path(os.environ["MOCHI_TERMINATION_LOG"]).write_text(line + "\\n")
    sys.exit(code)
def wait_to_be_told(after=lambda: leave("Preempted", code=143)):
    signal.signal(signal.SIGTERM, lambda *_: after())
    (folder / f"waits-{rank}").touch()
    time.sleep(300)
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.02)
"""


def launched_here(folder: Path, program: str, stop: Stop, *, gpus: int = 2) -> tuple[Outcome, int]:
    command = [sys.executable, "-c", PROGRAM + program]
    return launched(command, World(replicas=1, gpus_per_pod=gpus), {"FOLDER": str(folder)}, stop)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def when(path: Path, number: signal.Signals) -> None:
    """Send this process a signal once `path` is there."""

    def watch() -> None:
        end = time.monotonic() + 60
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize(("pods", "gpus"), [(1, 2), (1, 8), (2, 4), (2, 8), (8, 1)])
def test_each_gpu_of_all_pods_has_one_rank_and_a_pod_has_those_that_follow_one_another(
    pods: int, gpus: int
) -> None:
    world = World(replicas=pods, gpus_per_pod=gpus)
    found = [
        ranks_of(place, processes=world.processes)
        for pod in range(pods)
        for place in places(JOB | {"RANK": str(pod), "WORLD_SIZE": str(pods)}, world, free_port=lambda: 1)
    ]
    address = "job-worker-0" if pods > 1 else "127.0.0.1"
    assert found == [
        Ranks(rank=rank, world=pods * gpus, address=address, port=23456, local=rank % gpus)
        for rank in range(pods * gpus)
    ]


def test_a_single_pod_meets_at_its_own_address_whatever_its_name_resolves_to() -> None:
    world = World(replicas=1, gpus_per_pod=2)
    there = {"MOCHI_POD_IP": "10.0.0.7", "MASTER_ADDR": "job-worker-0", "MASTER_PORT": "23456"}
    assert {
        (each["MASTER_ADDR"], each["MASTER_PORT"]) for each in places(there, world, free_port=lambda: 1)
    } == {("10.0.0.7", "23456")}
    assert {
        (each["MASTER_ADDR"], each["MASTER_PORT"]) for each in places({}, world, free_port=lambda: 5)
    } == {("127.0.0.1", "5")}


def test_a_pod_that_does_not_know_its_place_among_the_others_is_told_what_lacks() -> None:
    with pytest.raises(
        InvalidInputError, match="WORLD_SIZE must be 4, as the world of the run file says, got 2"
    ):
        places(JOB, World(replicas=4, gpus_per_pod=2), free_port=lambda: 1)


def test_the_cores_are_divided_and_a_number_of_threads_that_was_given_is_kept(tmp_path: Path) -> None:
    program = '(folder / f"threads-{rank}").write_text(os.environ["OMP_NUM_THREADS"]); leave("Completed")'
    with Stop() as stop:
        launched_here(tmp_path, program, stop)
    found = [int((tmp_path / f"threads-{rank}").read_text()) for rank in (0, 1)]
    assert found == [max(1, cpus.available() // 2)] * 2
    assert cpus.share(10**6) == 1
    command = [sys.executable, "-c", PROGRAM + program]
    with Stop() as stop:
        launched(command, World(replicas=1, gpus_per_pod=2), {"OMP_NUM_THREADS": "7"}, stop)
    assert (tmp_path / "threads-1").read_text() == "7"


def test_the_pod_leaves_what_its_first_process_leaves_when_all_end_well(tmp_path: Path) -> None:
    program = (
        'wait_for("ended-1") if rank == 0 else (folder / "ended-1").touch(); leave("Completed", f"of {rank}")'
    )
    with Stop() as stop:
        assert launched_here(tmp_path, program, stop) == (Outcome(reason=Reason.COMPLETED, message="of 0"), 0)


def test_the_first_failure_ends_the_others_and_is_the_pods(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = 'wait_to_be_told() if rank != 2 else (wait_for("waits-0"), leave("NonFiniteLoss", "nan", 8))'
    with Stop() as stop:
        outcome, code = launched_here(tmp_path, program, stop, gpus=3)
    assert (outcome.reason, outcome.message, outcome.rank, code) == (Reason.NON_FINITE_LOSS, "nan", 2, 8)
    assert capfd.readouterr().err == "", "a log of JSON lines has no others"


def test_a_process_that_notices_a_loss_first_does_not_hide_who_was_lost(tmp_path: Path) -> None:
    """Rank 1 fails, and still stores its report while rank 0 has ended already, for want of rank 1."""
    program = """
if rank == 0: (wait_for("waits-1"), leave("CollectiveTimeout", "rank 1 is gone", 9))
signal.signal(signal.SIGTERM, lambda *_: None)
(folder / "waits-1").touch()
time.sleep(1)
leave("InvalidInput", "a wrong value", 2)
"""
    with Stop() as stop:
        outcome, code = launched_here(tmp_path, program, stop)
    assert (outcome.reason, outcome.rank, code) == (Reason.INVALID_INPUT, 1, 2)


@pytest.mark.parametrize(
    ("end", "message", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was killed by SIGKILL and left no outcome", 137),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "rank 1 was killed by SIGSEGV and left no outcome", 139),
        ("os._exit(3)", "rank 1 ended with exit code 3 and left no outcome", 3),
    ],
)
def test_of_a_process_that_leaves_nothing_it_is_said_how_it_ended(
    tmp_path: Path, end: str, message: str, code: int
) -> None:
    program = f'wait_to_be_told() if rank == 0 else (wait_for("waits-0"), {end})'
    with Stop() as stop:
        found = launched_here(tmp_path, program, stop)
    assert found == (Outcome(reason=Reason.UNKNOWN, message=message, rank=1), code)


def test_what_the_kernel_killed_for_its_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")
    monkeypatch.setattr(cpus.out_of_memory_kills, "__defaults__", (events,))
    program = f"""
if rank == 0: wait_to_be_told()
wait_for("waits-0")
pathlib.Path({str(events)!r}).write_text("oom_kill 2\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""
    with Stop() as stop:
        outcome, code = launched_here(tmp_path, program, stop)
    assert (outcome.reason, outcome.rank, code) == (Reason.OUT_OF_MEMORY, 1, 7)
    assert cpus.out_of_memory_kills(tmp_path / "absent") == 0


def test_a_process_that_hangs_is_killed_when_another_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one in a collective of NCCL, which hears no signal; it is not taken for the cause."""
    monkeypatch.setattr(launch, "LAST_SECONDS", 1)
    program = (
        'wait_to_be_told(lambda: None) if rank == 0 else (wait_for("waits-0"), leave("DiskFull", "full", 11))'
    )
    with Stop() as stop:
        outcome, code = launched_here(tmp_path, program, stop)
    assert (outcome.reason, outcome.rank, code) == (Reason.DISK_FULL, 1, 11)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_and_each_has_its_time_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Also when another has ended already: the time that is left after a failure is not the time to save."""
    monkeypatch.setattr(launch, "LAST_SECONDS", 0.1)
    program = """
def save():
    if rank == 0:
        time.sleep(2)
    (folder / f"saved-{rank}").touch()
    leave("Preempted", f"saved by {rank}", 143)
signal.signal(signal.SIGTERM, lambda *_: (signal.signal(signal.SIGTERM, signal.SIG_IGN), save()))
if rank == 1: wait_for("waits-0")
(folder / f"waits-{rank}").touch()
time.sleep(300)
"""
    when(tmp_path / "waits-1", number)
    before = signal.getsignal(number)
    with Stop() as stop:
        outcome, code = launched_here(tmp_path, program, stop)
    assert (outcome.reason, outcome.message, code) == (Reason.PREEMPTED, "saved by 0", 143)
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()
    assert signal.getsignal(number) == before


def test_a_process_that_had_no_handler_yet_was_stopped_and_not_killed(tmp_path: Path) -> None:
    when(tmp_path / "here-1", signal.SIGTERM)
    with Stop() as stop:
        outcome, code = launched_here(tmp_path, '(folder / f"here-{rank}").touch(); time.sleep(300)', stop)
    assert (outcome.reason, code) == (Reason.PREEMPTED, 143)


def test_none_is_started_when_the_signal_came_before(tmp_path: Path) -> None:
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        outcome, code = launched_here(tmp_path, '(folder / "started").touch()', stop)
    assert (outcome.reason, code) == (Reason.PREEMPTED, 143)
    assert not (tmp_path / "started").exists()


def outcome(reason: Reason) -> Outcome:
    return Outcome(reason=reason)


@pytest.mark.parametrize(
    ("ends", "outcomes", "expected"),
    [
        ([(0, 9, False), (1, 7, False)], [Reason.COLLECTIVE_TIMEOUT, Reason.OUT_OF_MEMORY], 1),
        ([(0, 143, True), (1, -9, False)], [Reason.PREEMPTED, None], 1),
        ([(0, -9, True), (1, 9, False)], [None, Reason.COLLECTIVE_TIMEOUT], 1),
        ([(0, 143, True), (1, 143, True)], [Reason.PREEMPTED, Reason.PREEMPTED], 0),
        ([(0, 0, False), (1, 6, False)], [Reason.COMPLETED, Reason.STORAGE_ERROR], 1),
        ([(0, 8, False), (1, 8, False)], [Reason.NON_FINITE_LOSS, Reason.NON_FINITE_LOSS], 0),
        ([(0, 0, False), (1, 0, False)], [Reason.COMPLETED, Reason.COMPLETED], 0),
    ],
    ids=["memory before a lost peer", "killed", "killed by us", "preempted", "only one", "all alike", "none"],
)
def test_the_failure_that_brought_the_others_about_counts(
    ends: list[tuple[int, int, bool]], outcomes: list[Reason | None], expected: int
) -> None:
    found = first(
        [Ended(local=local, code=code, told=told) for local, code, told in ends],
        [None if reason is None else outcome(reason) for reason in outcomes],
    )
    assert found.local == expected


def lives(number: str) -> bool:
    """Whether the process is there and no zombie; it may go between two looks."""
    try:
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_ends_when_the_one_that_started_it_is_killed(tmp_path: Path) -> None:
    """As it does by hand; in a pod the kernel sees to it."""
    child = """
import pathlib, time
from mochi_trainer.parallel.stop import end_with_parent
end_with_parent()
pathlib.Path("waits").touch()
time.sleep(300)
"""
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "waits").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        (number,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.kill()
        process.wait()
    while lives(number):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nano_is_content_with_the_cpu_where_its_gpus_are_not_seen_and_nothing_else_is(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run = run_file(tmp_path, gpus=2)
    assert training_device(run, 1) == torch.device("cpu")
    published = run.model_copy(update={"model": run.model.model_copy(update={"preset": "mochi-1"})})
    with pytest.raises(DeviceUnavailableError, match="gives this pod 2 GPUs, but torch sees none"):
        training_device(published, 1)
