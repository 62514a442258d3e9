"""A Secret that is renewed while a pod runs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from mochi_trainer.errors import AccessDeniedError, StorageError
from mochi_trainer.storage import Connection, Patience, Store, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, Fault, Request, fault_proxy
from tests.trainer.mounted import Mounted

PATIENCE = Patience(
    connect_seconds=2, read_seconds=5, attempts=1, first_seconds=5, total_seconds=5, renewal_seconds=20
)


@pytest.fixture
def keys(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The right ones; the environment has wrong ones, as of before the renewal."""
    right = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stale")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stale")
    return right


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mounted:
    """A folder that the trainer is told of."""
    found = Mounted(tmp_path / "keys")
    monkeypatch.setenv("MOCHI_S3_CREDENTIALS", str(found.folder))
    return found


def _open(server: Server) -> Store:
    return open_store(f"s3://{BUCKET}/{uuid4().hex}/", server.spec, Connection(server.spec, PATIENCE))


def test_the_mounted_keys_come_before_the_environment(
    s3_server: Server, keys: tuple[str, str], mounted: Mounted
) -> None:
    mounted.holds(*keys)
    store = _open(s3_server)
    store.write_bytes("key", b"x")
    assert store.read_bytes("key") == b"x"


def test_keys_that_are_swapped_are_used_by_the_next_call(
    s3_server: Server, keys: tuple[str, str], mounted: Mounted
) -> None:
    mounted.holds(*keys, token="first")
    seen: list[str] = []

    def rule(request: Request) -> Fault | None:
        seen.append(request.headers.get("x-amz-security-token", ""))
        return Answer(status=200, headers={"ETag": '"1"'})

    with fault_proxy(s3_server.spec, rule) as proxy:
        store = open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, PATIENCE))
        assert store.exists("key")
        mounted.holds(*keys, token="second")
        assert store.exists("key")
    assert (seen[0], seen[-1]) == ("first", "second")


def test_keys_that_stop_working_are_waited_for(
    s3_server: Server, keys: tuple[str, str], mounted: Mounted, tmp_path: Path
) -> None:
    """The token runs out, and the renewed Secret comes a little later."""
    mounted.holds(*keys)
    store = _open(s3_server)
    store.write_bytes("key", b"x")
    mounted.holds("gone", "gone")
    timer = threading.Timer(2, lambda: mounted.holds(*keys))
    timer.start()
    try:
        (tmp_path / "large").write_bytes(b"1" * (9 << 20))
        store.put(tmp_path / "large", "large")
        assert store.read_bytes("key") == b"x"
    finally:
        timer.join()


def test_keys_that_never_worked_are_refused_at_once(
    s3_server: Server, keys: tuple[str, str], mounted: Mounted
) -> None:
    mounted.holds("wrong", "wrong")
    started = time.monotonic()
    with pytest.raises(AccessDeniedError, match="Secret s3-keys"):
        _open(s3_server).read_bytes("key")
    assert time.monotonic() - started < 60  # where keys have worked, newer ones are waited for: 150 s


def test_a_token_that_stays_expired_ends_in_time_and_may_be_tried_again(
    s3_server: Server, keys: tuple[str, str], mounted: Mounted
) -> None:
    mounted.holds(*keys, token="old")
    expired = False

    def rule(request: Request) -> Fault | None:
        if expired:
            return Answer(status=400, code="ExpiredToken", words="The provided token has expired.")
        return Answer(status=200, body=b"x", headers={"ETag": '"1"'})

    with fault_proxy(s3_server.spec, rule) as proxy:
        patience = Patience(attempts=1, renewal_seconds=2)
        store = open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, patience))
        assert store.read_bytes("key") == b"x"
        expired, started = True, time.monotonic()
        with pytest.raises(StorageError, match="has expired"):
            store.read_bytes("key")
        assert 2 <= time.monotonic() - started < 30


def test_a_secret_that_is_taken_away_leaves_the_keys_as_they_were(
    s3_server: Server, keys: tuple[str, str], mounted: Mounted
) -> None:
    mounted.holds(*keys)
    store = _open(s3_server)
    store.write_bytes("key", b"x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (mounted.folder / name).unlink()
    (mounted.folder / "..data").unlink()
    assert store.read_bytes("key") == b"x"


def test_without_mounted_keys_the_environment_counts(
    s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Secret's volume is optional, and pods with an identity of their own have none."""
    monkeypatch.setenv("MOCHI_S3_CREDENTIALS", str(tmp_path / "none"))
    store = _open(s3_server)
    store.write_bytes("key", b"x")
    assert store.read_bytes("key") == b"x"
