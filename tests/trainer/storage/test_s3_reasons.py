"""Each thing that is wrong with S3 has one reason: what it is, whose move it is, and whether another try may help."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from mochi_api.outcomes import ROWS
from mochi_api.spec import S3Spec
from mochi_trainer.errors import (
    AccessDeniedError,
    InvalidInputError,
    MissingObjectError,
    StorageError,
    TrainerError,
)
from mochi_trainer.storage import Connection, Patience, Store, open_store
from mochi_trainer.storage.s3_reasons import Place, explained
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, FaultProxy, Request, fault_proxy

BRIEF = Patience(
    connect_seconds=2, read_seconds=2, attempts=1, first_seconds=1, total_seconds=1, renewal_seconds=0
)

CALLS: dict[str, Callable[[Store, Path], object]] = {
    "read_bytes": lambda s, _: s.read_bytes("key"),
    "read_range": lambda s, _: s.read_range("key", 0, 4),
    "get": lambda s, folder: s.get("key", folder / "copy"),
    "head": lambda s, _: s.head("key"),
    "list": lambda s, _: list(s.list()),
    "write_bytes": lambda s, _: s.write_bytes("key", b"x"),
    "delete": lambda s, _: s.delete(["key"]),
}


def _open(spec: S3Spec) -> Store:
    return open_store(f"s3://{BUCKET}/{uuid4().hex}/", spec, Connection(spec, BRIEF))


@contextmanager
def answering(server: Server, answer: Answer) -> Iterator[FaultProxy]:
    """A server that says the same of everything; to HEAD without a body, as HTTP wants it."""
    with fault_proxy(server.spec, lambda _: answer) as proxy:
        yield proxy


def refusal(server: Server, answer: Answer, name: str, folder: Path) -> tuple[TrainerError, bool]:
    """What the call ends with, and whether it asked anything again."""
    with answering(server, answer) as proxy, pytest.raises(TrainerError) as caught:
        CALLS[name](_open(proxy.spec), folder)
    assert not (folder / "copy").exists()
    return caught.value, any(request.number for request in proxy.seen)


def final(error: TrainerError) -> bool:
    """Whether no further attempt is made."""
    return not ROWS[error.reason].retryable


@pytest.mark.parametrize("name", CALLS)
class TestEveryCall:
    def test_an_expired_token_is_called_so_and_the_next_attempt_may_have_a_new_one(
        self, name: str, s3_server: Server, tmp_path: Path
    ) -> None:
        answer = Answer(status=400, code="ExpiredToken", words="The provided token has expired.")
        error, _ = refusal(s3_server, answer, name, tmp_path)
        assert isinstance(error, StorageError)
        assert "the token in Secret s3-keys has expired" in str(error)
        assert error.action is not None
        assert "renew Secret s3-keys" in error.action
        assert not final(error)

    def test_a_wrong_clock_is_called_so(self, name: str, s3_server: Server, tmp_path: Path) -> None:
        answer = Answer(
            status=403,
            code="RequestTimeTooSkewed",
            words="The difference between the request time and the server's time is too large.",
        )
        error, _ = refusal(s3_server, answer, name, tmp_path)
        assert "the clock of this node differs from that of http://" in str(error)
        assert "NTP" in (error.action or "")
        assert not final(error)

    def test_access_that_is_denied_names_the_secret_and_is_final(
        self, name: str, s3_server: Server, tmp_path: Path
    ) -> None:
        error, again = refusal(
            s3_server, Answer(status=403, code="AccessDenied", words="not you"), name, tmp_path
        )
        assert isinstance(error, AccessDeniedError)
        assert "credentials of Secret s3-keys (AccessDenied: not you)" in str(error)
        assert not again

    def test_no_such_bucket_names_it_and_is_final(self, name: str, s3_server: Server, tmp_path: Path) -> None:
        error, _ = refusal(s3_server, Answer(status=404, code="NoSuchBucket"), name, tmp_path)
        assert isinstance(error, MissingObjectError)
        assert f"bucket {BUCKET} of s3://{BUCKET}/" in str(error)

    def test_another_region_is_named_and_is_final(self, name: str, s3_server: Server, tmp_path: Path) -> None:
        answer = Answer(
            status=400,
            code="AuthorizationHeaderMalformed",
            words="the region 'us-east-1' is wrong; expecting 'eu-central-1'",
            extra="<Region>eu-central-1</Region>",
            headers={"x-amz-bucket-region": "eu-central-1"},
        )
        error, _ = refusal(s3_server, answer, name, tmp_path)
        assert isinstance(error, MissingObjectError)
        assert "is in region eu-central-1, storage.s3.region is us-east-1" in str(error)
        assert error.action == "set storage.s3.region to eu-central-1"

    def test_a_web_page_is_no_s3_server(self, name: str, s3_server: Server, tmp_path: Path) -> None:
        page = Answer(
            status=200, body=b"<html><body>Welcome</body></html>", headers={"Content-Type": "text/html"}
        )
        error, _ = refusal(s3_server, page, name, tmp_path)
        assert isinstance(error, InvalidInputError)
        assert "is no S3 server" in str(error)

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_an_endpoint_that_redirects_to_itself_names_where_to(
        self, name: str, status: int, s3_server: Server, tmp_path: Path
    ) -> None:
        answer = Answer(status=status, headers={"Location": "https://console.example/login"})
        error, again = refusal(s3_server, answer, name, tmp_path)
        assert isinstance(error, InvalidInputError)
        assert "is no S3 server" in str(error)
        assert "https://console.example/login" in str(error)
        assert not again


@contextmanager
def web_server(folder: Path) -> Iterator[S3Spec]:
    """A server of files, and no S3."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield S3Spec(endpoint=f"http://127.0.0.1:{server.server_port}", path_style=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@pytest.mark.parametrize("name", CALLS)
def test_a_real_web_server_is_no_s3_server(name: str, s3_server: Server, tmp_path: Path) -> None:
    with (
        web_server(tmp_path) as spec,
        pytest.raises(InvalidInputError, match=r"is no S3 server: HTTP (404|501)") as caught,
    ):
        CALLS[name](_open(spec), tmp_path)
    assert "storage.s3.endpoint" in (caught.value.action or "")


def test_what_has_been_an_s3_server_before_may_be_one_again(s3_server: Server, tmp_path: Path) -> None:
    """An ingress without a backend answers 404 too: no reason to end a training for good."""
    lost = False

    def rule(_: object) -> Answer | None:
        return Answer(status=404, body=b"default backend - 404") if lost else None

    with fault_proxy(s3_server.spec, rule) as proxy:
        store = _open(proxy.spec)
        store.write_bytes("key", b"x")
        lost = True
        with pytest.raises(StorageError, match="is no S3 server: HTTP 404"):
            store.read_bytes("key")


@pytest.mark.parametrize("name", ["read_bytes", "read_range", "get"])
def test_an_archived_object_is_to_be_restored(name: str, s3_server: Server, tmp_path: Path) -> None:
    answer = Answer(
        status=403,
        code="InvalidObjectState",
        words="The operation is not valid for the object's storage class",
        extra="<StorageClass>DEEP_ARCHIVE</StorageClass>",
    )
    with fault_proxy(s3_server.spec, lambda r: answer if r.method == "GET" else None) as proxy:
        store = _open(proxy.spec)
        store.write_bytes("key", b"archived")
        with pytest.raises(MissingObjectError, match=r"/key is archived \(DEEP_ARCHIVE\)") as caught:
            CALLS[name](store, tmp_path)
    assert "restore the object" in (caught.value.action or "")


def test_a_listing_that_does_not_end_does_not_go_on_for_ever(s3_server: Server) -> None:
    page = (
        b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount>'
        b"<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
    )
    with answering(s3_server, Answer(status=200, body=page)) as proxy:
        with pytest.raises(StorageError, match="goes round in circles"):
            list(_open(proxy.spec).list())
        assert len(proxy.seen) == 2


def test_a_listing_of_pages_that_lead_to_each_other_ends(s3_server: Server) -> None:
    def rule(request: Request) -> Answer:
        following = {"": "one", "one": "two", "two": "three"}.get(
            request.query.get("continuation-token", [""])[0], "one"
        )
        page = (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount><IsTruncated>true'
            f"</IsTruncated><NextContinuationToken>{following}</NextContinuationToken></ListBucketResult>"
        )
        return Answer(status=200, body=page.encode())

    with (
        fault_proxy(s3_server.spec, rule) as proxy,
        pytest.raises(StorageError, match="goes round in circles"),
    ):
        list(_open(proxy.spec).list())


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Mon, 30 Nov 2020 10:00:00 -0000", r" by \d+ s"),
        ("Mon, 30 Nov 2020 10:00:00 GMT", r" by \d+ s"),
        ("the day before yesterday", ""),
    ],
)
def test_a_clock_is_compared_with_whatever_date_a_server_says(
    date: str, ahead: str, s3_server: Server
) -> None:
    error = ClientError(
        {
            "Error": {"Code": "RequestTimeTooSkewed", "Message": "too large"},
            "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {"date": date}},
        },  # type: ignore[typeddict-item]  # as much as is looked at
        "PutObject",
    )
    place = Place("s3://data/x", "data", s3_server.spec, answered=True)
    assert re.search(rf"differs from that of http://\S+{ahead} \(", str(explained(error, place, seconds=0)))
