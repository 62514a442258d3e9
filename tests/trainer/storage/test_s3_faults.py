"""A real S3 server behind a proxy that cuts, loses, delays and refuses: each call is tried again, and bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from mochi_trainer.errors import AccessDeniedError, MissingObjectError, PreemptedError, StorageError
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Connection, Patience, Store, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import (
    Answer,
    Cut,
    Fault,
    FaultProxy,
    Lost,
    Request,
    Shaped,
    fault_proxy,
    once,
)

QUICK = Patience(
    connect_seconds=2, read_seconds=2, attempts=1, first_seconds=8, total_seconds=8, renewal_seconds=0
)
"""One request a try, so that it is the call that is tried again and not botocore's request."""
LARGE = bytes(range(256)) * (4096 * 20)
"""20 MiB: three parts."""

Act = Callable[[Store, Path], object]


def _put(store: Store, folder: Path) -> object:
    (folder / "source").write_bytes(LARGE)
    store.put(folder / "source", "made")
    return store.read_range("made", len(LARGE) - 10, 20)


def _get(store: Store, folder: Path) -> object:
    store.get("large", folder / "copy")
    return (folder / "copy").read_bytes() == LARGE


ACTS: dict[str, tuple[Act, Callable[[Request], bool], object]] = {
    "read_bytes": (lambda s, _: s.read_bytes("small"), lambda r: r.method == "GET", b"0123456789" * 4000),
    "read_range": (
        lambda s, _: s.read_range("small", 3, 20000),
        lambda r: r.method == "GET",
        (b"0123456789" * 4000)[3:20003],
    ),
    "get": (_get, lambda r: r.method == "GET", True),
    "put": (_put, lambda r: r.uploads_part, LARGE[-10:]),
    "write_bytes": (
        lambda s, _: (s.write_bytes("w", b"x"), s.read_bytes("w"))[1],
        lambda r: r.method == "PUT",
        b"x",
    ),
    "write_if_absent": (
        lambda s, _: s.write_if_absent(f"{uuid4()}", b"mine"),
        lambda r: r.method == "PUT",
        True,
    ),
    "list": (
        lambda s, _: [i.key for i in s.list("many/")],
        lambda r: "list-type" in r.query,
        [f"many/{n}" for n in range(3)],
    ),
    "head": (lambda s, _: s.head("small").size, lambda r: r.method == "HEAD", 40000),
    "digest": (lambda s, _: s.digest("small") is not None, lambda r: r.method == "HEAD", True),
    "delete": (lambda s, _: s.delete([f"gone/{n}" for n in range(5)]), lambda r: r.method == "DELETE", None),
}
FAULTS: dict[str, Fault] = {
    "500": Answer(status=500, code="InternalError"),
    "503 SlowDown": Answer(status=503, code="SlowDown"),
    "503 of a proxy in front": Answer(status=503, body=b"<html>upstream connect error</html>"),
    "429": Answer(status=429, code="TooManyRequests"),
    "connection lost before": Lost(done=False),
    "connection lost after": Lost(done=True),
    "cut": Cut(after=5),
    "silent": Shaped(seconds=4),
}


@pytest.fixture
def direct(s3_server: Server, tmp_path: Path) -> tuple[Server, str]:
    """A server with some objects, and their prefix."""
    prefix = uuid4().hex
    store = open_store(f"s3://{BUCKET}/{prefix}/", s3_server.spec)
    store.write_bytes("small", b"0123456789" * 4000)
    for number in range(3):
        store.write_bytes(f"many/{number}", b"x")
        store.write_bytes(f"gone/{number}", b"x")
    (tmp_path / "large").write_bytes(LARGE)
    store.put(tmp_path / "large", "large")
    return s3_server, prefix


def _through(proxy: FaultProxy, prefix: str, patience: Patience = QUICK) -> Store:
    return open_store(f"s3://{BUCKET}/{prefix}/", proxy.spec, Connection(proxy.spec, patience))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ACTS)
def test_every_call_survives_a_fault_that_passes(
    name: str, fault: str, direct: tuple[Server, str], tmp_path: Path
) -> None:
    server, prefix = direct
    act, affected, expected = ACTS[name]
    hit: list[Request] = []
    inner = once(affected, FAULTS[fault])

    def rule(request: Request) -> Fault | None:
        found = inner(request)
        if found is not None:
            hit.append(request)
        return found

    with fault_proxy(server.spec, rule) as proxy:
        assert act(_through(proxy, prefix), tmp_path) == expected
    assert len(hit) == 1


@pytest.mark.parametrize("name", ACTS)
def test_a_fault_that_stays_ends_each_call_in_bounded_time(
    name: str, direct: tuple[Server, str], tmp_path: Path
) -> None:
    server, prefix = direct
    act, affected, _ = ACTS[name]
    brief = Patience(connect_seconds=1, read_seconds=1, attempts=1, first_seconds=2, total_seconds=2)

    def rule(request: Request) -> Fault | None:
        return Answer(status=503, code="SlowDown") if affected(request) else None

    started = time.monotonic()
    with fault_proxy(server.spec, rule) as proxy, pytest.raises(StorageError, match=r"SlowDown|503"):
        act(_through(proxy, prefix, brief), tmp_path)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "a date"])
def test_a_server_that_asks_for_a_pause_gets_it(as_date: bool, direct: tuple[Server, str]) -> None:
    """A date is one of the server's own clock, which may be another."""
    server, prefix = direct
    headers = {"Retry-After": "2"}
    if as_date:
        theirs = time.time() - 7200
        headers = {
            "Date": formatdate(theirs, usegmt=True),
            "Retry-After": formatdate(theirs + 2, usegmt=True),
        }
    slow = Answer(status=503, code="SlowDown", headers=headers)
    started = time.monotonic()
    with fault_proxy(server.spec, once(lambda r: r.method == "GET", slow)) as proxy:
        assert _through(proxy, prefix).read_bytes("small")
    assert time.monotonic() - started >= 2


@pytest.mark.parametrize(
    "said", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-5", "1.5", "Fri, 99 Foo 2026 00:00:00 GMT", ""]
)
def test_a_pause_that_is_over_or_none_costs_nothing(said: str, direct: tuple[Server, str]) -> None:
    server, prefix = direct
    slow = Answer(status=503, code="SlowDown", headers={"Retry-After": said})
    started = time.monotonic()
    with fault_proxy(server.spec, once(lambda r: r.method == "GET", slow)) as proxy:
        assert _through(proxy, prefix).read_bytes("small")
    assert time.monotonic() - started < 2


def test_a_pause_longer_than_the_limit_ends_the_call_at_once(direct: tuple[Server, str]) -> None:
    server, prefix = direct
    later = formatdate(time.time() + 3600, usegmt=True)
    slow = Answer(status=503, code="SlowDown", headers={"Retry-After": later})
    started = time.monotonic()
    with fault_proxy(server.spec, lambda _: slow) as proxy, pytest.raises(StorageError, match="SlowDown"):
        _through(proxy, prefix).read_bytes("small")
    assert time.monotonic() - started < 2


def test_a_body_that_breaks_off_again_and_again_is_read_again_each_time(
    direct: tuple[Server, str], tmp_path: Path
) -> None:
    server, prefix = direct

    def rule(request: Request) -> Fault | None:
        return Cut(after=100_000) if request.method == "GET" and request.number % 2 == 0 else None

    with fault_proxy(server.spec, rule) as proxy:
        assert _get(_through(proxy, prefix), tmp_path) is True


def test_a_server_that_knows_no_ranges_is_read_all_the_same(
    direct: tuple[Server, str], tmp_path: Path
) -> None:
    server, prefix = direct
    whole = Answer(status=200, body=b"0123456789", headers={"ETag": '"1"'})
    with fault_proxy(server.spec, lambda r: whole) as proxy:
        assert _through(proxy, prefix).read_range("small", 7, 2) == b"78"


def test_checksums_are_not_needed(direct: tuple[Server, str], tmp_path: Path) -> None:
    server, prefix = direct
    hidden = tuple(
        f"x-amz-checksum-{kind}" for kind in ("crc32", "crc32c", "crc64nvme", "sha1", "sha256", "type")
    )
    with fault_proxy(server.spec, lambda r: Shaped(hide=hidden)) as proxy:
        store = _through(proxy, prefix)
        assert _put(store, tmp_path) == LARGE[-10:]
        assert _get(store, tmp_path) is True


class TestContentMd5:
    """A server, or a bucket with object lock, that takes no other checksum."""

    @staticmethod
    def rule(request: Request) -> Fault | None:
        if "content-md5" in request.headers or not (request.deletes_many or request.method == "PUT"):
            return None
        return Answer(status=400, code="MissingContentMD5", words="Missing required header: Content-MD5")

    def test_objects_are_deleted(self, direct: tuple[Server, str]) -> None:
        server, prefix = direct
        with fault_proxy(server.spec, self.rule) as proxy:
            store = _through(proxy, prefix)
            store.delete(f"gone/{n}" for n in range(3))
            assert list(store.list("gone/")) == []
            assert not any(request.deletes_many for request in proxy.seen)

    def test_objects_are_written_whole_and_in_parts(self, direct: tuple[Server, str], tmp_path: Path) -> None:
        server, prefix = direct
        with fault_proxy(server.spec, self.rule) as proxy:
            store = _through(proxy, prefix)
            store.write_bytes("w", b"content")
            assert store.read_bytes("w") == b"content"
            assert _put(store, tmp_path) == LARGE[-10:]


def test_many_objects_are_deleted_and_the_first_refusal_ends_it(direct: tuple[Server, str]) -> None:
    server, prefix = direct
    refused = Answer(status=403, code="AccessDenied", words="not you")
    with fault_proxy(server.spec, lambda r: refused if r.path.endswith("/gone/1") else None) as proxy:
        with pytest.raises(AccessDeniedError, match=r"/gone/1 .*not you"):
            _through(proxy, prefix).delete(f"gone/{n}" for n in range(1000))
        assert proxy.methods().count("DELETE") <= 16


def test_who_wrote_an_object_of_which_the_answer_was_lost_knows_it(direct: tuple[Server, str]) -> None:
    server, prefix = direct
    with fault_proxy(server.spec, once(lambda r: r.method == "PUT", Lost(done=True))) as proxy:
        assert _through(proxy, prefix).write_if_absent("lock", b"mine")
    with fault_proxy(server.spec, once(lambda r: r.method == "PUT", Lost(done=False))) as proxy:
        assert not _through(proxy, prefix).write_if_absent("lock", b"theirs")


def _open_uploads(server: Server) -> list[str]:
    client = boto3.client("s3", endpoint_url=server.spec.endpoint, region_name=server.spec.region)
    try:
        return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])]
    finally:
        client.close()


def test_an_upload_that_fails_leaves_no_parts_behind(direct: tuple[Server, str], tmp_path: Path) -> None:
    server, prefix = direct
    brief = Patience(connect_seconds=1, read_seconds=1, attempts=1, first_seconds=1, total_seconds=1)

    def broken(request: Request) -> Fault | None:
        second = request.query.get("partNumber") == ["2"]
        return Answer(status=500, code="InternalError") if second else None

    with fault_proxy(server.spec, broken) as proxy, pytest.raises(StorageError):
        _put(_through(proxy, prefix, brief), tmp_path)
    assert [key for key in _open_uploads(server) if key.startswith(prefix)] == []


def test_an_upload_that_is_stopped_leaves_no_parts_behind(direct: tuple[Server, str], tmp_path: Path) -> None:
    """As by SIGTERM, which reaches the work where it moves."""
    server, prefix = direct
    moves = 0

    def stop() -> None:
        nonlocal moves
        moves += 1
        if moves > 20:
            raise PreemptedError("stopped")

    with PROCESS.heard(stop), pytest.raises(PreemptedError, match="stopped"):
        _put(open_store(f"s3://{BUCKET}/{prefix}/", server.spec), tmp_path)
    assert [key for key in _open_uploads(server) if key.startswith(prefix)] == []


def test_an_object_that_is_replaced_while_it_is_read_is_read_anew(
    direct: tuple[Server, str], tmp_path: Path
) -> None:
    server, prefix = direct
    other = open_store(f"s3://{BUCKET}/{prefix}/", server.spec)
    (tmp_path / "newer").write_bytes(LARGE[::-1])

    def rule(request: Request) -> Fault | None:
        if request.method == "GET" and request.number == 1:
            other.put(tmp_path / "newer", "large")
        return None

    with fault_proxy(server.spec, rule) as proxy:
        _through(proxy, prefix).get("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() in {LARGE, LARGE[::-1]}


def test_a_missing_object_is_not_asked_for_twice(direct: tuple[Server, str]) -> None:
    server, prefix = direct
    with fault_proxy(server.spec, lambda r: None) as proxy:
        with pytest.raises(MissingObjectError):
            _through(proxy, prefix).read_bytes("absent")
        assert proxy.methods() == ["GET"]
