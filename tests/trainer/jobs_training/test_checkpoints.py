"""Checkpoints while training goes on: what is stored is the state of its step, and a store that is away costs no step."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file

from mochi_api.runfile import RunFile
from mochi_trainer import host_memory
from mochi_trainer.errors import DiskFullError, NonFiniteLossError, PreemptedError, StorageError
from mochi_trainer.jobs import saving as job
from mochi_trainer.jobs import train
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Patience, file_sha256
from mochi_trainer.train import gauges, saving
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.fault_proxy import Answer, Fault, Lost, Request, Shaped, fault_proxy
from tests.trainer.training_runs import run_file, write_dataset

LIMIT = 90.0
STEPS: dict[str, Any] = {"steps": 12, "schedule": "Constant", "checkpoint": {"everySteps": 3, "keepLast": 10}}
FULL: dict[str, Any] = {"mode": "full", "replicas": 2, "learningRate": "0.001", **STEPS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_dataset(folder)
    return folder


@pytest.fixture(autouse=True)
def _soon_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a store is away: in a run there are minutes between two checkpoints, here there is a second."""
    monkeypatch.setattr(job, "PATIENCE", Patience(attempts=1, first_seconds=0.2, total_seconds=0.2))


def stored(root: Path, server: Server, **options: Any) -> tuple[RunFile, Path]:
    """A run whose folder is on the S3 server, and where the server keeps that."""
    name = uuid4().hex
    run = run_file(root, name=name, **options)
    places = run.locations.model_copy(update={"run": f"s3://{BUCKET}/{name}"})
    return run.model_copy(update={"locations": places, "s3": server.spec}), server.folder / name


def through(run: RunFile, spec: object) -> RunFile:
    return run.model_copy(update={"s3": spec})


def shards(folder: Path, step: int) -> list[str]:
    return [file_sha256(path) for path in sorted(folder.glob(f"checkpoints/step-{step:06d}*/shard-*"))]


def complete(folder: Path) -> list[int]:
    return sorted(int(path.parent.name[5:11]) for path in folder.glob("checkpoints/*/manifest.json"))


def weights(folder: Path) -> dict[str, dict[str, Any]]:
    """Numbers of the result; the files also name their run."""
    return {
        path.name: {name: tensor.tolist() for name, tensor in load_file(path).items()}
        for path in folder.glob("artifacts/*.safetensors")
    }


def numbers(folder: Path) -> list[str]:
    """The series without its clocks."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        json.dumps({k: v for k, v in line.items() if k not in ("time", "stepSeconds", "dataSeconds")})
        for line in lines
    ]


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    train.execute(run_file(root, name="undisturbed", **STEPS))
    return root / "runs/undisturbed"


@pytest.fixture(scope="module")
def undisturbed_gang(root: Path) -> Path:
    run_distributed(train.execute, 2, run_file(root, name="gang", **FULL))
    return root / "runs/gang"


@contextmanager
def at_step(step: int, act: Callable[[], None]) -> Iterator[None]:
    """`act` is called once when the main thread has done so many steps."""
    done: list[int] = []

    def listener() -> None:
        if not done and PROCESS.heartbeat().done >= step:
            done.append(step)
            act()

    with PROCESS.heard(listener):
        yield


def slow(request: Request) -> Fault | None:
    """The look at the fence is slow, so that the copy is read when training has gone on; and so are shards."""
    looks = request.query.get("prefix", [""])[0].endswith("attempts/")
    return Shaped(seconds=0.4) if looks or (request.method == "PUT" and "/shard-" in request.path) else None


def test_what_is_stored_is_the_state_of_its_step_although_training_goes_on(
    root: Path, undisturbed: Path, s3_server: Server
) -> None:
    """Each checkpoint equals the last one of a run that ends there, which nothing follows."""
    run, folder = stored(root, s3_server, **STEPS)
    seen: list[tuple[str, int]] = []

    def rule(request: Request) -> Fault | None:
        if request.method == "PUT" and "checkpoints" in request.path:
            seen.append((request.path.rsplit("/", 2)[1], PROCESS.heartbeat().done))
        return slow(request)

    with fault_proxy(s3_server.spec, rule) as proxy:
        train.execute(through(run, proxy.spec))
    for step in (3, 6, 9):
        short = run_file(root, name=f"short-{step}", **STEPS | {"steps": step})
        train.execute(short)
        assert shards(folder, step) == shards(root / f"runs/short-{step}", step) != []
    assert shards(folder, 12) == shards(undisturbed, 12)
    assert (weights(folder), numbers(folder)) == (weights(undisturbed), numbers(undisturbed))
    assert any(done > int(name[5:]) for name, done in seen)  # training was further when it was written


def test_two_ranks_agree_when_all_is_there(root: Path, undisturbed_gang: Path, s3_server: Server) -> None:
    """The manifest comes after the shard of the slower rank, and training does not wait for it."""
    run, folder = stored(root, s3_server, **FULL)
    answered: list[str] = []

    def rule(request: Request) -> Fault | None:
        if request.method == "PUT" and "checkpoints" in request.path:
            if "shard-00001" in request.path:
                time.sleep(0.5)
            answered.append("/".join(request.path.rsplit("/", 2)[1:]))
        return slow(request)

    with fault_proxy(s3_server.spec, rule) as proxy:
        run_distributed(train.execute, 2, through(run, proxy.spec))
    for step in (3, 6, 9, 12):
        names = [name.partition("/")[2] for name in answered if name.startswith(f"step-{step:06d}/")]
        assert (names[-1], sorted(set(names[:-1]))) == (
            "manifest.json",
            ["shard-00000-of-00002.safetensors", "shard-00001-of-00002.safetensors"],
        )
        assert shards(folder, step) == shards(undisturbed_gang, step)
    assert (weights(folder), numbers(folder)) == (weights(undisturbed_gang), numbers(undisturbed_gang))


class Away:
    """A store that is away from the first shard of step 6 on, until somebody lets it come back."""

    def __init__(self, *, only: str = "") -> None:
        self.back = threading.Event()
        self.gone = threading.Event()
        self._only = only

    def __call__(self, request: Request) -> Fault | None:
        if "step-000006/shard" in request.path:
            self.gone.set()
        away = self.gone.is_set() and not self.back.is_set() and self._only in request.path
        return Lost(done=False) if away else None


def test_training_goes_on_while_the_store_is_away(
    root: Path, undisturbed: Path, s3_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes back only when training has come further, past the next checkpoint: whoever waited for it would wait for ever."""
    run, folder = stored(root, s3_server, **STEPS)
    away = Away()
    with fault_proxy(s3_server.spec, away) as proxy, at_step(10, away.back.set):
        train.execute(through(run, proxy.spec))
    assert away.back.is_set()
    assert (weights(folder), numbers(folder)) == (weights(undisturbed), numbers(undisturbed))
    assert complete(folder) in ([3, 9, 12], [3, 12])
    assert shards(folder, 12) == shards(undisturbed, 12)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("checkpoint of step 6 is not stored yet, training goes on" in text for text in told)
    assert any("what to do: " in text for text in told)
    assert any("checkpoint of step 6 is given up unsaved" in text for text in told)


def _counted(run: RunFile, back: str) -> dict[str, float]:
    """What rank 0 counts; it lets the store come back after step 10."""
    made: list[gauges.Gauges] = []
    before = gauges.Gauges.__init__

    def noted(self: gauges.Gauges, **given: Any) -> None:
        before(self, **given)
        made.append(self)

    gauges.Gauges.__init__ = noted  # type: ignore[method-assign]
    with at_step(10, Path(back).touch):
        train.execute(run)
    told = made[0].exposition().decode()
    names = ("mochi_train_checkpoint_failures_total", "mochi_train_checkpoints_dropped_total")
    return {name: _sample(told, name) for name in names}


def _sample(exposition: str, name: str) -> float:
    (line,) = (line for line in exposition.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_a_store_that_is_away_from_one_rank_holds_up_neither(
    root: Path, undisturbed_gang: Path, s3_server: Server, tmp_path: Path
) -> None:
    run, folder = stored(root, s3_server, **FULL)
    away = Away(only="shard-00001")

    def rule(request: Request) -> Fault | None:
        if (tmp_path / "back").exists():
            away.back.set()
        return away(request)

    with fault_proxy(s3_server.spec, rule) as proxy:
        first, second = run_distributed(_counted, 2, through(run, proxy.spec), str(tmp_path / "back"))
    assert (weights(folder), numbers(folder)) == (weights(undisturbed_gang), numbers(undisturbed_gang))
    assert complete(folder) in ([3, 9, 12], [3, 12])
    assert first["mochi_train_checkpoint_failures_total"] == 0
    assert second["mochi_train_checkpoint_failures_total"] > 0
    dropped = "mochi_train_checkpoints_dropped_total"
    assert first[dropped] == second[dropped] >= 1


def test_a_store_that_does_not_come_back_ends_the_attempt_after_the_last_step_and_the_next_goes_on(
    root: Path, undisturbed: Path, s3_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 1.0)
    run, folder = stored(root, s3_server, **STEPS)
    away = Away(only="checkpoints")
    with (
        fault_proxy(s3_server.spec, away) as proxy,
        pytest.raises(StorageError, match="the checkpoint of step 12 could not be stored, nothing has moved"),
    ):
        train.execute(through(run, proxy.spec))
    assert complete(folder) == [3]
    second = run.model_copy(update={"run": run.run.model_copy(update={"attempt": 2})})
    assert train.execute(second).details["resumedFromStep"] == 3
    assert (weights(folder), numbers(folder)) == (weights(undisturbed), numbers(undisturbed))


def test_a_store_that_takes_every_byte_and_is_then_busy_is_not_waited_for_without_an_end(
    root: Path, s3_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "MOST_LOST", 2)
    run, folder = stored(root, s3_server, **STEPS | {"checkpoint": {"everySteps": 100, "keepLast": 2}})

    def rule(request: Request) -> Fault | None:
        return Answer(status=503) if request.method == "PUT" and "/shard-" in request.path else None

    with (
        fault_proxy(s3_server.spec, rule) as proxy,
        pytest.raises(
            StorageError, match="the checkpoint of step 12 could not be stored, 2 tries were cut off"
        ),
    ):
        train.execute(through(run, proxy.spec))
    assert complete(folder) == []


@pytest.mark.parametrize("grace", [180, 1])
def test_sigterm_waits_for_the_checkpoint_that_is_under_way(
    root: Path, s3_server: Server, grace: int
) -> None:
    """Another one of the step at hand follows where the grace period has the time for it."""
    options = STEPS | {"steps": 500, "checkpoint": {"everySteps": 40, "keepLast": 10}}
    run, folder = stored(root, s3_server, **options)
    arrived = threading.Event()

    def rule(request: Request) -> Fault | None:
        if request.method == "PUT" and "/shard-" in request.path and not arrived.is_set():
            arrived.set()
            os.kill(os.getpid(), signal.SIGTERM)
        return slow(request)

    world = run.world.model_copy(update={"grace_period_seconds": grace})
    with fault_proxy(s3_server.spec, rule) as proxy, pytest.raises(PreemptedError) as caught:
        train.execute(through(run, proxy.spec).model_copy(update={"world": world}))
    step = caught.value.step
    assert step is not None
    assert complete(folder) == (sorted({40, step}) if grace == 180 else [40])
    assert f"saved at step {complete(folder)[-1]}" in str(caught.value)


def test_a_training_that_fails_still_stores_what_is_under_way(
    root: Path, s3_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps in a row without a finite loss come while the checkpoint before them is on its way."""
    run, folder = stored(root, s3_server, **STEPS | {"checkpoint": {"everySteps": 4, "keepLast": 10}})

    def rule(request: Request) -> Fault | None:
        shard = request.method == "PUT" and "/shard-" in request.path
        return Shaped(seconds=3) if shard else None

    monkeypatch.setattr("mochi_trainer.train.loop.learning_rate", lambda step, _: 1e-3 if step < 5 else 1e38)
    with fault_proxy(s3_server.spec, rule) as proxy, pytest.raises(NonFiniteLossError):
        train.execute(through(run, proxy.spec))
    assert complete(folder) == [4]


@pytest.mark.parametrize("ranks", [1, 2])
def test_where_memory_is_too_small_the_copy_on_the_disk_gives_the_same(
    root: Path,
    undisturbed: Path,
    undisturbed_gang: Path,
    s3_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
) -> None:
    monkeypatch.setattr(host_memory, "available", lambda: 1024)
    run, folder = stored(root, s3_server, **(STEPS if ranks == 1 else FULL))
    with fault_proxy(s3_server.spec, slow) as proxy:
        run_distributed(train.execute, ranks, through(run, proxy.spec))
    alone = undisturbed if ranks == 1 else undisturbed_gang
    assert [shards(folder, step) for step in (3, 6, 9, 12)] == [shards(alone, step) for step in (3, 6, 9, 12)]
    assert (weights(folder), numbers(folder)) == (weights(alone), numbers(alone))


def _without_room_on_rank_1(run: RunFile) -> str:
    if os.environ["RANK"] == "1":
        host_memory.available = lambda: 1024
        job.most_bytes = lambda *_, **__: 10**18  # type: ignore[assignment]
    try:
        train.execute(run)
    except DiskFullError as error:
        return str(error)
    return "completed"


def test_a_rank_without_room_is_named_on_all_ranks_before_the_first_step(
    root: Path, s3_server: Server
) -> None:
    run, folder = stored(root, s3_server, **FULL)
    first, second = run_distributed(_without_room_on_rank_1, 2, run)
    assert first == second
    assert first.startswith("rank 1: the copy of a checkpoint, for which host memory is too small, needs")
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("ranks", [1, 2])
def test_deterministic_kernels_change_nothing_on_a_cpu(
    root: Path, undisturbed: Path, undisturbed_gang: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    monkeypatch.setenv("MOCHI_DETERMINISTIC", "1")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # so that it is taken back afterwards
    run = run_file(root, name=f"deterministic-{ranks}", **(STEPS if ranks == 1 else FULL))
    run_distributed(train.execute, ranks, run)
    alone, folder = undisturbed if ranks == 1 else undisturbed_gang, root / f"runs/deterministic-{ranks}"
    assert (weights(folder), numbers(folder)) == (weights(alone), numbers(alone))
