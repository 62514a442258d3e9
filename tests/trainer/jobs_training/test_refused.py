"""A store that begins to refuse in the middle of a training: renewed keys cost nothing, and without them the run ends in time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from safetensors.torch import load_file

from mochi_api.heartbeat import Heartbeat
from mochi_api.runfile import RunFile
from mochi_trainer.errors import AccessDeniedError, MissingObjectError, StorageError, TrainerError
from mochi_trainer.jobs import saving as job
from mochi_trainer.jobs import train
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Patience, open_store, s3_connection
from tests.trainer.conftest import BUCKET
from tests.trainer.distributed import run_distributed
from tests.trainer.fault_proxy import Answer, Fault, Request, fault_proxy
from tests.trainer.jobs_training.killed import complete
from tests.trainer.mounted import Accounts, Mounted, serving_accounts
from tests.trainer.training_runs import run_file, write_dataset

CHECKPOINT = {"everySteps": 3, "keepLast": 10}
STEPS: dict[str, Any] = {"steps": 12, "schedule": "Constant", "checkpoint": CHECKPOINT}
LONG = 100_000
"""Steps that take longer than any test is waited for."""
KINDS: dict[int, dict[str, Any]] = {1: {}, 2: {"mode": "full", "replicas": 2, "learningRate": "0.001"}}
"""By the number of ranks."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    with serving_accounts(tmp_path_factory.mktemp("accounts")) as found:
        yield found


@pytest.fixture
def mounted(tmp_path: Path, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> Mounted:
    """A Secret with the keys of an account called `first`."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = Mounted(tmp_path / "keys")
    monkeypatch.setenv("MOCHI_S3_CREDENTIALS", str(found.folder))
    found.holds(*accounts.made(f"first-{tmp_path.name}"))
    return found


@pytest.fixture(autouse=True)
def _soon_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server says: in a run there are minutes between two checkpoints, here there is a second."""
    impatient = Patience(attempts=1, first_seconds=0.2, total_seconds=0.2, renewal_seconds=0)
    monkeypatch.setattr(job, "PATIENCE", impatient)


def stored(root: Path, accounts: Accounts, **options: Any) -> tuple[RunFile, Path]:
    """A run whose folder is on the server, and where the server keeps that."""
    name, server = uuid4().hex, accounts.server
    run = run_file(root, name=name, **options)
    places = run.locations.model_copy(update={"run": f"s3://{BUCKET}/{name}"})
    return run.model_copy(update={"locations": places, "s3": server.spec}), server.folder / name


def left(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Weights and losses."""
    weights = {
        f"{path.name}/{name}": tensor.tolist()
        for path in folder.glob("artifacts/*.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert weights
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    clocks = ("time", "stepSeconds", "dataSeconds")
    return weights, [json.dumps({k: v for k, v in line.items() if k not in clocks}) for line in lines]


Act = tuple[Callable[[Heartbeat], object], Callable[[], object]]
"""When, by the sign of life, and what."""


@contextmanager
def acting(acts: list[Act]) -> Iterator[list[int]]:
    """On rank 0 each act is done once, in turn; all steps that were seen."""
    due = list(acts) if os.environ.get("RANK", "0") == "0" else []
    seen = [0]

    def listener() -> None:
        sign = PROCESS.heartbeat()
        seen.append(sign.done)
        if due and due[0][0](sign):
            due.pop(0)[1]()

    with PROCESS.heard(listener):
        yield seen


def saved(sign: Heartbeat) -> bool:
    """A checkpoint is complete."""
    return sign.checkpoint_step is not None


def lasting(sign: Heartbeat) -> bool:
    """That the next ones cannot be stored is told, and two were due."""
    return sign.checkpoint_delay is not None and sign.done >= (sign.checkpoint_step or 0) + 8


def trained(run: RunFile, acts: list[Act]) -> tuple[str, str, int]:
    """How it ended: the kind of error and its message, both empty when it ended well, and the steps that were done."""
    with acting(acts) as seen:
        try:
            train.execute(run)
        except TrainerError as error:
            return type(error).__name__, str(error), max(seen)
    return "", "", max(seen)


@pytest.mark.parametrize("ranks", [1, 2])
def test_keys_that_are_revoked_and_renewed_later_cost_nothing(
    root: Path, accounts: Accounts, mounted: Mounted, tmp_path: Path, ranks: int
) -> None:
    steps = {**STEPS, "steps": 30, **KINDS[ranks]}
    run, folder = stored(root, accounts, **steps)
    acts: list[Act] = [
        (saved, lambda: accounts.revoked(f"first-{tmp_path.name}")),
        (lasting, lambda: mounted.holds(*accounts.made(f"second-{tmp_path.name}"))),
    ]
    assert run_distributed(trained, ranks, run, acts) == [("", "", 30)] * ranks
    run_distributed(trained, ranks, run_file(root, name=f"alone-{ranks}", **steps), [])
    assert left(folder) == left(root / f"runs/alone-{ranks}")
    assert complete(folder)[-1] == 30


@pytest.mark.parametrize("ranks", [1, 2])
def test_keys_that_stay_revoked_end_the_run_with_that_reason_once_a_checkpoint_is_due(
    root: Path,
    accounts: Accounts,
    mounted: Mounted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
) -> None:
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 1.0)
    run, folder = stored(root, accounts, **STEPS | {"steps": LONG} | KINDS[ranks])
    acts: list[Act] = [(saved, lambda: accounts.revoked(f"first-{tmp_path.name}"))]
    ends = run_distributed(trained, ranks, run, acts)
    assert len(set(ends)) == 1, ends
    kind, message, step = ends[0]
    assert (kind, step < LONG) == (AccessDeniedError.__name__, True)
    assert "no checkpoint could be stored for " in message
    assert "Secret s3-keys" in message
    newest = complete(folder)[-1]
    assert (
        f"the newest complete one is s3://{BUCKET}/{folder.name}/checkpoints/step-{newest:06d}: " in message
    )
    mounted.holds(*accounts.made(f"second-{tmp_path.name}"))
    identity = run.run.model_copy(update={"attempt": 2})
    short = run.training.model_copy(update={"steps": newest + 3})
    second = run.model_copy(update={"run": identity, "training": short})
    assert run_distributed(trained, ranks, second, []) == [("", "", newest + 3)] * ranks
    whole = run_file(root, name=f"whole-{ranks}", **STEPS | {"steps": newest + 3} | KINDS[ranks])
    run_distributed(trained, ranks, whole, {})
    assert left(folder)[0] == left(root / f"runs/whole-{ranks}")[0]


SAID = {
    "ExpiredToken": (Answer(status=400, code="ExpiredToken"), StorageError, "has expired"),
    "RequestTimeTooSkewed": (Answer(status=403, code="RequestTimeTooSkewed"), StorageError, "the clock"),
    "AccessDenied": (Answer(status=403, code="AccessDenied"), AccessDeniedError, "refused"),
}


@pytest.mark.parametrize(
    ("code", "what"),
    [("ExpiredToken", "everything"), ("RequestTimeTooSkewed", "the manifest"), ("AccessDenied", "shards")],
)
def test_whatever_is_refused_and_however_the_run_ends_in_time(
    root: Path, accounts: Accounts, mounted: Mounted, monkeypatch: pytest.MonkeyPatch, code: str, what: str
) -> None:
    """From the second checkpoint on; what is read for it, the series and the claim may still be allowed."""
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 1.0)
    run, folder = stored(root, accounts, **STEPS | {"steps": LONG})
    answer, kind, words = SAID[code]
    begun: list[Request] = []

    def rule(request: Request) -> Fault | None:
        if "step-000006" in request.path:
            begun.append(request)
        part = {"everything": "", "shards": "/shard-", "the manifest": "manifest.json"}[what]
        return answer if begun and part in request.path else None

    with fault_proxy(accounts.server.spec, rule) as proxy:
        (ended,) = run_distributed(trained, 1, run.model_copy(update={"s3": proxy.spec}), [])
    assert (ended[0], words in ended[1]) == (kind.__name__, True), ended
    assert "no checkpoint could be stored for " in ended[1]
    assert complete(folder) == [3]


@pytest.mark.parametrize("code", ["ExpiredToken", "AccessDenied"])
def test_the_last_checkpoint_is_waited_for_as_long(
    root: Path, accounts: Accounts, mounted: Mounted, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Although its bytes move with each try: the answer comes after them."""
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 1.0)
    run, folder = stored(root, accounts, **STEPS)
    answer, kind, words = SAID[code]

    def rule(request: Request) -> Fault | None:
        return answer if "step-000012/shard" in request.path else None

    with fault_proxy(accounts.server.spec, rule) as proxy:
        (ended,) = run_distributed(trained, 1, run.model_copy(update={"s3": proxy.spec}), [])
    assert (ended[0], words in ended[1], ended[2]) == (kind.__name__, True, 12), ended
    assert complete(folder)[-1] == 9


CLIPS = 60
"""So many that most are read only after the first checkpoint."""


@pytest.fixture(scope="module")
def read_from_server(accounts: Accounts, tmp_path_factory: pytest.TempPathFactory) -> RunFile:
    """A run of many steps, all of whose places are on the server."""
    root, name = tmp_path_factory.mktemp("read"), uuid4().hex
    write_dataset(root, clips=CLIPS)
    store = open_store(f"s3://{BUCKET}/{name}/cache", accounts.server.spec)
    for path in (path for path in (root / "cache").rglob("*") if path.is_file()):
        store.put(path, str(path.relative_to(root / "cache")))
    run = run_file(root, **STEPS | {"steps": LONG, "validation": {"clips": 0}})
    here = {"cache": store.address()}
    return run.model_copy(
        update={"locations": run.locations.model_copy(update=here), "s3": accounts.server.spec}
    )


def in_own_folder(run: RunFile) -> RunFile:
    places = run.locations.model_copy(update={"run": f"s3://{BUCKET}/{uuid4().hex}"})
    return run.model_copy(update={"locations": places})


DENIED = Answer(status=403, code="AccessDenied")
GONE = Answer(status=404, code="NoSuchKey")


@pytest.mark.parametrize(
    ("answer", "kind", "what"),
    [
        (DENIED, AccessDeniedError, "clips"),
        (GONE, MissingObjectError, "clips"),
        (DENIED, AccessDeniedError, "everything"),
    ],
    ids=["denied", "gone", "everything denied"],
)
def test_a_clip_that_is_refused_ends_the_training_at_once(
    read_from_server: RunFile, mounted: Mounted, answer: Answer, kind: type[TrainerError], what: str
) -> None:
    """Also when the checkpoint that is under way is refused too, and with the reason of the clip."""
    run, refused = in_own_folder(read_from_server), list[float]()

    def rule(request: Request) -> Fault | None:
        if "step-000003/manifest.json" in request.path and request.method == "PUT":
            refused.append(time.monotonic())
        return answer if refused and ("/clip-" in request.path or what == "everything") else None

    with fault_proxy(run.s3, rule) as proxy:
        name, message, step = trained(run.model_copy(update={"s3": proxy.spec}), [])
        seconds = time.monotonic() - refused[0]
    assert (name, "/clip-" in message, step < CLIPS) == (kind.__name__, True, True), message
    assert seconds < 30


def test_keys_that_are_revoked_are_waited_for_once(
    read_from_server: RunFile,
    accounts: Accounts,
    mounted: Mounted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For the clip, and not for the checkpoint after it."""
    monkeypatch.setattr(s3_connection, "Patience", partial(Patience, renewal_seconds=3))
    revoked = list[float]()

    def revoke() -> None:
        accounts.revoked(f"first-{tmp_path.name}")
        revoked.append(time.monotonic())

    name, message, _ = trained(in_own_folder(read_from_server), [(saved, revoke)])
    assert (name, "/clip-" in message) == (AccessDeniedError.__name__, True), message
    assert 3 <= time.monotonic() - revoked[0] < 30
