"""Several attempts of one training: none disturbs a newer one, none throws away what an older one saved."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mochi_api import heartbeat
from mochi_api.outcomes import TrainingResult
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError, PreemptedError, StorageError, TrainerError
from mochi_trainer.jobs import train
from mochi_trainer.movement import PROCESS
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import forked, free_port, run_distributed
from tests.trainer.fault_proxy import Request, fault_proxy
from tests.trainer.slow_store import slow_server
from tests.trainer.training_runs import run_file, write_dataset

LIMIT = 90.0
"""Seconds that anything here is waited for."""
STEPS: dict[str, Any] = {"steps": 10, "checkpoint": {"everySteps": 2, "keepLast": 2}}
FULL: dict[str, Any] = {"mode": "full", "globalBatchSize": 2, "steps": 6, "learningRate": "0.001"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attempts")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> Path:
    """The folder of a run with one attempt."""
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    train.execute(run_file(root, name="undisturbed", **STEPS))
    return root / "runs/undisturbed"


def attempt(run: RunFile, number: int) -> RunFile:
    return run.model_copy(update={"run": run.run.model_copy(update={"attempt": number})})


def numbers(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("time", "stepSeconds", "dataSeconds")} for line in lines
    ]


def same_adapter(one: Path, other: Path) -> bool:
    ours, theirs = (load_file(folder / "artifacts/lora.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def on_server(run: RunFile, server: Server) -> tuple[RunFile, Path]:
    """The run with its folder on the S3 server, and where the server keeps that."""
    places = run.locations.model_copy(update={"run": f"s3://{BUCKET}/{run.run.name}"})
    return run.model_copy(update={"locations": places, "s3": server.spec}), server.folder / run.run.name


def complete(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("checkpoints/*/manifest.json"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {LIMIT:g} s")
        time.sleep(0.01)


def when(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    def watch() -> None:
        wait_until(condition, "what a test waits for")
        act()

    threading.Thread(target=watch, daemon=True).start()


Moment = Callable[[Request, list[Request]], bool]
"""Whether a request, after those before it, is the one at which attempt 1 is held."""


def _puts(part: str, request: Request) -> bool:
    return request.method == "PUT" and part in request.path


def _looks(which: int) -> Moment:
    """The so-manieth look at the fence after the shard of step 6, before the object that follows."""

    def looks(request: Request) -> bool:
        return request.query.get("prefix", [""])[0].endswith("attempts/")

    def moment(request: Request, before: list[Request]) -> bool:
        shard = next((i for i, each in enumerate(before) if _puts("step-000006/shard", each)), len(before))
        return looks(request) and sum(map(looks, before[shard:])) == which - 1 and shard < len(before)

    return moment


MOMENTS: dict[str, tuple[Moment, int]] = {
    "at the shard": (lambda request, _: _puts("step-000006/shard", request), 4),
    "before the series": (_looks(1), 4),
    "before the manifest": (_looks(2), 4),
    "after the manifest": (lambda _, before: any(_puts("step-000006/manifest", each) for each in before), 6),
}


def _first(run: RunFile, sender: Connection) -> None:
    """Attempt 1 in a process of its own."""
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    try:
        train.execute(run)
        sender.send("completed")
    except TrainerError as error:
        sender.send((type(error).__name__, error.exit_code))
    finally:
        sender.close()
        os._exit(0)


@contextmanager
def held(run: RunFile, moment: Moment, gate: threading.Event) -> Iterator[Connection]:
    """Attempt 1 while it waits for the answer to a request; afterwards the connection gives how it ended."""
    holds = threading.Event()

    def rule(request: Request) -> None:
        before = proxy.seen[: proxy.seen.index(request)]
        if not holds.is_set() and moment(request, before):
            holds.set()
            assert gate.wait(LIMIT)

    receiver, sender = multiprocessing.Pipe(duplex=False)
    with fault_proxy(run.s3, rule) as proxy:
        process = forked(_first, run.model_copy(update={"s3": proxy.spec}), sender)
        process.start()
        sender.close()
        try:
            assert holds.wait(LIMIT)
            yield receiver
        finally:
            gate.set()
            process.kill()
            process.join(10)


@pytest.mark.parametrize("name", MOMENTS)
def test_an_attempt_that_is_still_saving_does_not_disturb_the_next(
    root: Path, undisturbed: Path, s3_server: Server, name: str
) -> None:
    """As when the operator took a node for lost that was only cut off."""
    moment, resumed = MOMENTS[name]
    run, folder = on_server(run_file(root, name=name.replace(" ", "-"), **STEPS), s3_server)
    gate = threading.Event()
    with held(run, moment, gate) as first:
        finished = train.execute(attempt(run, 2))
        gate.set()
        assert first.poll(LIMIT)
        assert first.recv() == ("SupersededError", 12)
    assert finished.details["resumedFromStep"] == resumed
    assert same_adapter(folder, undisturbed)
    assert numbers(folder) == numbers(undisturbed)
    assert complete(folder) == ["step-000008-a2", "step-000010-a2"]


def _gangs(run: RunFile, port: int, held_file: Path, gate: Path) -> str:
    """Processes 0 and 1 are attempt 1, which holds while it saves step 2; 2 and 3 are attempt 2, which comes meanwhile."""
    number = int(os.environ["RANK"])
    os.environ.update(RANK=str(number % 2), WORLD_SIZE="2")

    def hold() -> None:
        sign = PROCESS.heartbeat()
        if number == 0 and (sign.activity, sign.done) == ("saving", 2):
            held_file.touch()
            wait_until(gate.exists, "the gate")

    try:
        if number < 2:
            with PROCESS.heard(hold):
                train.execute(run)
            return "completed"
        os.environ["MASTER_PORT"] = str(port)
        wait_until(held_file.exists, "attempt 1")
        train.execute(attempt(run, 2))
    except (TrainerError, RuntimeError) as error:
        return type(error).__name__
    if number == 2:
        gate.touch()
    return "completed"


def test_a_gang_does_not_disturb_the_gang_that_replaces_it(root: Path, tmp_path: Path) -> None:
    options = FULL | {"checkpoint": {"everySteps": 2, "keepLast": 1}}
    run_distributed(train.execute, 2, run_file(root, name="full-alone", replicas=2, **options))
    run = run_file(root, name="full-two", replicas=2, **options)
    ended = run_distributed(_gangs, 4, run, free_port(), tmp_path / "held", tmp_path / "gate")
    assert (ended[0], ended[2:]) == ("SupersededError", ["completed", "completed"])
    assert ended[1] in (
        "SupersededError",
        "CollectiveTimeoutError",
    )  # told by the fence, or by the end of rank 0
    folder, alone = root / "runs/full-two", root / "runs/full-alone"
    ours, theirs = (load_file(each / "artifacts/dit.safetensors") for each in (folder, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert numbers(folder) == numbers(alone)
    assert complete(folder) == ["step-000006-a2"]


def test_an_attempt_goes_on_from_the_checkpoint_of_any_other(root: Path, undisturbed: Path) -> None:
    folder = root / "runs/third"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "checkpoints/step-000010")
    run = run_file(root, name="third", **STEPS)
    second = train.execute(attempt(run, 2))
    assert second.details["resumedFromStep"] == 8
    third = train.execute(attempt(run, 3))
    assert third.details["resumedFromStep"] == 10
    for finished in (second, third):
        assert isinstance(finished.result, TrainingResult)
        assert finished.result.checkpoint_uri == f"{run.locations.run}/checkpoints/step-000010-a2"
    assert same_adapter(folder, undisturbed)


def test_an_attempt_that_begins_after_a_newer_one_changes_nothing(root: Path, undisturbed: Path) -> None:
    folder = root / "runs/late"
    run = run_file(root, name="late", **STEPS)
    train.execute(attempt(run, 2))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(TrainerError, match="attempt 2 of this training has begun"):
        train.execute(run)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {folder / "attempts/a000001.json"}
    assert {path: after[path] for path in before} == before


def test_fields_of_a_newer_version_are_ignored(root: Path, undisturbed: Path) -> None:
    folder = root / "runs/newer"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "checkpoints/step-000010")
    path = folder / "checkpoints/step-000008/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["made"] = "later"
    manifest["entries"][0]["colour"] = "red"
    manifest["details"] |= {"mood": "good", "position": manifest["details"]["position"] | {"epoch": 2}}
    path.write_text(json.dumps(manifest))
    assert train.execute(run_file(root, name="newer", **STEPS)).details["resumedFromStep"] == 8


def test_a_manifest_that_says_too_little_is_left_out(root: Path, undisturbed: Path) -> None:
    folder = root / "runs/less"
    shutil.copytree(undisturbed, folder)
    path = folder / "checkpoints/step-000010/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["details"]["position"]["step"]
    path.write_text(json.dumps(manifest))
    assert train.execute(run_file(root, name="less", **STEPS)).details["resumedFromStep"] == 8


def test_old_checkpoints_that_cannot_be_removed_end_nothing(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder in the place of a manifest cannot be deleted as a file."""
    (root / "runs/stuck/checkpoints/step-000001/manifest.json/inside").mkdir(parents=True)
    (root / "runs/stuck/checkpoints/step-000001/manifest.json/inside/file").touch()
    train.execute(run_file(root, name="stuck", **STEPS))
    assert complete(root / "runs/stuck")[-2:] == ["step-000008", "step-000010"]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(" stay: ")[0] for text in warnings if " stay: " in text] == [
        f"old checkpoints in file://{root}/runs/stuck/checkpoints"
    ]


def test_a_store_that_does_not_answer_throws_nothing_away(
    root: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is saved, by starting anew, nor the series, which is not known yet."""
    folder = root / "runs/silent"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "artifacts")
    before = (folder / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def silent() -> None:
        if list(tmp_path.glob("mochi-checkpoint-*")):  # one is being read
            raise StorageError("no answer")

    with PROCESS.heard(silent), pytest.raises(StorageError, match="no answer"):
        train.execute(run_file(root, name="silent", **STEPS))
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert not (folder / "artifacts").exists()


def test_sigterm_is_heard_while_the_store_hangs(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    run = run_file(root, name="hangs", **STEPS)
    with slow_server(halts=True) as server:
        places = run.locations.model_copy(update={"cache": "s3://data/cache"})
        when(server.halted.is_set, lambda: os.kill(os.getpid(), signal.SIGTERM))
        started = time.monotonic()
        with pytest.raises(PreemptedError, match="before the first step") as caught:
            train.execute(run.model_copy(update={"locations": places, "s3": server.spec}))
        assert time.monotonic() - started < 50  # the store's silence may take 60 s, and that four times
    assert caught.value.exit_code == 143


def test_sigterm_is_heard_while_peers_are_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    when(
        lambda: PROCESS.heartbeat().activity == "waiting for peers",
        lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    with pytest.raises(PreemptedError, match="before the first step"):
        train.execute(run_file(root, name="lonely", replicas=2, **FULL))


def _watched(run: RunFile, seen: Path) -> heartbeat.Heartbeat | None:
    """Rank 1 hangs after step 2 until `seen` is there; rank 0 asks itself how it does until it shows."""
    if os.environ["RANK"] == "1":

        def hang() -> None:
            if PROCESS.heartbeat().done == 2:
                wait_until(seen.exists, "the other rank")

        with PROCESS.heard(hang):
            train.execute(run)
        return None
    found: list[heartbeat.Heartbeat] = []

    def shows() -> bool:
        address = f"http://127.0.0.1:{os.environ['MOCHI_METRICS_PORT']}{heartbeat.PATH}"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                sign = heartbeat.parse(answer.read())
        except OSError:
            return False
        if sign is None or sign.done < 2 or sign.quiet_seconds < 3:
            return False
        found.append(sign)
        return True

    when(shows, seen.touch)
    train.execute(run)
    return found[0]


def test_a_step_that_hangs_shows_in_the_heartbeat(root: Path, tmp_path: Path) -> None:
    run = run_file(root, name="stuck-step", replicas=2, **FULL)
    sign, _ = run_distributed(_watched, 2, run, tmp_path / "seen")
    assert sign is not None
    assert (sign.activity in ("training", "saving"), sign.total, sign.done in (2, 3)) == (True, 6, True)
    assert sign.step_age_seconds is not None
    assert sign.step_age_seconds >= 3


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    "other",
    [
        {"lora": {"rank": 2, "alpha": 8}},
        {"lora": {"rank": 4, "alpha": 8, "targets": ["key"]}},
        {"lora": {"rank": 4, "alpha": 4}},
        {"lora": {"rank": 4, "alpha": 8, "rsLora": True}},
        {"mode": "full"},
    ],
    ids=["rank", "targets", "alpha", "rsLora", "mode"],
)
def test_a_folder_of_another_training_is_not_begun_anew(
    root: Path, request: pytest.FixtureRequest, other: dict[str, Any]
) -> None:
    name = f"other-{request.node.callspec.id}"
    train.execute(run_file(root, name=name))
    before = sorted(str(path) for path in (root / "runs" / name).rglob("*"))
    with pytest.raises(
        InvalidInputError, match=rf"is of another training: .*{request.node.callspec.id} is "
    ) as caught:
        train.execute(run_file(root, name=name, **other))
    assert "in another folder" in (caught.value.action or "")
    assert sorted(str(path) for path in (root / "runs" / name).rglob("*")) == before


@pytest.mark.usefixtures("undisturbed")
def test_an_older_checkpoint_that_does_not_tell_is_no_way_around_a_newer_one_that_does(root: Path) -> None:
    """Of an earlier version, which wrote no terms."""
    train.execute(run_file(root, name="mixed"))
    older = root / "runs/mixed/checkpoints/step-000004/manifest.json"
    document = json.loads(older.read_text())
    del document["details"]["terms"]
    older.write_text(json.dumps(document))
    with pytest.raises(
        InvalidInputError, match=r"of another training: training\.lora\.alpha is 16 here, 8 th"
    ):
        train.execute(run_file(root, name="mixed", lora={"rank": 4, "alpha": 16}))
    assert train.execute(run_file(root, name="mixed", steps=8)).details["resumedFromStep"] == 6
