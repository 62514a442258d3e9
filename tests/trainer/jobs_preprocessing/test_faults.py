"""Whole stages behind a storage that fails, by a seed: they leave what undisturbed ones leave, byte for byte."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.graph import Made, Unit, Units, making
from mochi_trainer.jobs import captions, trim, videos
from mochi_trainer.storage import open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, Cut, Fault, Lost, Request, Shaped, fault_proxy
from tests.trainer.jobs_preprocessing.killed import write_clips
from tests.trainer.preprocessing_runs import run_file

CLIPS = 6
SHARE = 0.3
"""Of the first requests of a kind that have a fault; of the later ones a third of it."""

STAGES: dict[str, ModuleType] = {"trim": trim, "captions": captions, "videos": videos}
CHECKSUMS = tuple(
    f"x-amz-checksum-{name}" for name in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256", "type")
)
FAULTS: dict[str, Fault] = {
    "500": Answer(status=500, code="InternalError"),
    "503": Answer(status=503, code="SlowDown"),
    "503 of a proxy in front": Answer(status=503, body=b"<html>upstream connect error</html>"),
    "lost before": Lost(done=False),
    "lost after": Lost(done=True),
    "cut": Cut(after=5),
    "slow": Shaped(seconds=0.3, bytes_per_second=100_000),
    "no checksums": Shaped(hide=CHECKSUMS),
    "wrong length": Answer(status=206, body=b"short", headers={"ETag": '"0"'}),
}
OF_READING = {"cut": 3, "no checksums": 3, "wrong length": 12}
"""Faults of answers with a body, which are fewer: how much more often than others they are drawn there."""


class Trouble:
    """A rule for the proxy: the same faults for the same seed, whichever thread asks first."""

    def __init__(self, seed: int, base: str) -> None:
        self.seed, self.base = seed, base
        self.struck: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        asked = (
            f"{request.method} {request.path.replace(self.base, '')} {sorted(request.query)} {request.number}"
        )
        draws = random.Random(f"{self.seed} {asked}")
        if draws.random() >= (SHARE if request.number == 0 else SHARE / 3):
            return None
        fitting = [name for name in FAULTS if _fits(name, request)]
        name = draws.choices(fitting, [OF_READING.get(name, 1) for name in fitting])[0]
        with self._lock:
            self.struck[name] += 1
        fault = FAULTS[name]
        if name == "wrong length" and isinstance(fault, Answer):
            span = request.headers["range"].removeprefix("bytes=")
            return Answer(
                status=206, body=fault.body, headers={**fault.headers, "Content-Range": f"bytes {span}/*"}
            )
        return fault


def _fits(name: str, request: Request) -> bool:
    if name == "wrong length":
        return request.method == "GET" and "range" in request.headers
    return request.method == "GET" or name not in OF_READING


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each unit was made."""
    counts: Counter[str] = Counter()
    stored = making._stored

    def counted(units: Units, done: Made) -> Unit:
        counts[done.key] += 1
        return stored(units, done)

    monkeypatch.setattr(making, "_stored", counted)
    return counts


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("clips") / "source"
    write_clips(folder, CLIPS)
    return folder


@pytest.fixture(scope="module")
def undisturbed(s3_server: Server, clips: Path) -> dict[str, bytes]:
    """Every object of the cache after undisturbed stages, by its key."""
    base = uuid4().hex
    _upload(s3_server, base, clips)
    _stages(base, s3_server.spec)
    return _cache(s3_server, base)


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_stages_behind_a_failing_storage_leave_what_undisturbed_ones_leave(
    s3_server: Server,
    clips: Path,
    undisturbed: dict[str, bytes],
    made: Counter[str],
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = uuid4().hex
    _upload(s3_server, base, clips)
    trouble = Trouble(seed, base)
    with fault_proxy(s3_server.spec, trouble) as proxy:
        _stages(base, proxy.spec)
    assert _cache(s3_server, base) == undisturbed
    assert not [key for key in undisturbed if "/claims/" in key]
    assert set(made.values()) == {1}, "work was done twice"
    assert set(trouble.struck) == set(FAULTS)
    with capsys.disabled():
        sys.stdout.write(
            f"\nseed {seed}: {dict(trouble.struck)} in {len(proxy.seen)} requests, of {len(made)} units "
            f"{sum(made.values()) - len(made)} were made twice\n"
        )


def _upload(server: Server, base: str, clips: Path) -> None:
    store = open_store(f"s3://{BUCKET}/{base}/source", server.spec)
    for path in clips.iterdir():
        store.put(path, path.name)


def _stages(base: str, spec: S3Spec) -> None:
    keys: dict[str, str] = {}
    for stage, job in STAGES.items():
        run = run_file(
            f"s3://{BUCKET}/{base}", stage=stage, keys=keys, s3=spec, videos={"reconstructEvery": 3}
        )
        keys[stage] = job.execute(run).result.cache_key


def _cache(server: Server, base: str) -> dict[str, bytes]:
    store = open_store(f"s3://{BUCKET}/{base}/cache", server.spec)
    return {info.key: store.read_bytes(info.key) for info in store.list()}
