"""What answers like a success and is none: nothing counts as stored, nothing as a defect, and a server's own ways are known."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import FlexibleChecksumError

from mochi_trainer.errors import AccessDeniedError, InvalidInputError, StorageError
from mochi_trainer.storage import Connection, Store, open_store
from mochi_trainer.storage.s3_faults import passing
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, Cut, Fault, Request, Shaped, always, fault_proxy, once
from tests.trainer.storage.test_s3_faults import QUICK
from tests.trainer.storage.test_s3_reasons import BRIEF

PAGE = Answer(
    status=200, body=b"<html>accept our terms</html>", headers={"Content-Type": "text/html; charset=utf-8"}
)
SILENT = Answer(status=200)
PARTS = bytes(9 << 20)
"""So large that it goes up in parts."""


def _put(store: Store, folder: Path) -> None:
    (folder / "source").write_bytes(PARTS)
    store.put(folder / "source", "large")


ACTS: dict[str, Callable[[Store, Path], object]] = {
    "read_bytes": lambda s, _: s.read_bytes("key"),
    "read_range": lambda s, _: s.read_range("key", 0, 4),
    "get": lambda s, folder: s.get("key", folder / "copy"),
    "head": lambda s, _: s.head("key"),
    "digest": lambda s, _: s.digest("key"),
    "list": lambda s, _: list(s.list()),
    "write_bytes": lambda s, _: s.write_bytes("key", b"x"),
    "write_if_absent": lambda s, _: s.write_if_absent("new", b"x"),
    "put": _put,
    "put_pieces": lambda s, _: s.put_pieces(lambda: iter([PARTS]), len(PARTS), "large"),
}
ODD_LISTING = (
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>data</Name><Contents>%s</Contents>'
    "</ListBucketResult>"
)


def _store(server: Server, rule: Callable[[Request], Fault | None], act: Callable[[Store], object]) -> object:
    """What `act` makes of a store of which the server, once it is known, does as `rule` says."""
    known = False
    with fault_proxy(server.spec, lambda request: rule(request) if known else None) as proxy:
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}/", proxy.spec, Connection(proxy.spec, QUICK))
        store.write_bytes("key", b"0123456789")
        known = True
        return act(store)


@pytest.mark.parametrize("answer", [PAGE, SILENT], ids=["page", "nothing"])
@pytest.mark.parametrize("name", ACTS)
class TestAPageInsteadOfAnAnswer:
    def test_is_no_s3_server(self, name: str, answer: Answer, s3_server: Server, tmp_path: Path) -> None:
        with (
            fault_proxy(s3_server.spec, always(lambda _: True, answer)) as proxy,
            pytest.raises(InvalidInputError, match=r"is no S3 server: (an answer|a page|it lists)"),
        ):
            ACTS[name](open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF)), tmp_path)

    def test_is_waited_for_when_the_server_was_there_before(
        self, name: str, answer: Answer, s3_server: Server, tmp_path: Path
    ) -> None:
        _store(s3_server, once(lambda _: True, answer), lambda store: ACTS[name](store, tmp_path))


def test_a_page_deletes_nothing(s3_server: Server) -> None:
    with (
        fault_proxy(s3_server.spec, always(lambda _: True, PAGE)) as proxy,
        pytest.raises(InvalidInputError, match="a page"),
    ):
        open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF)).delete(["key"])


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        ("<Key>a</Key><Size>3</Size>", "ETag"),
        ("<Key>a</Key><ETag>1</ETag>", "Size"),
        ("<Size>3</Size><ETag>1</ETag>", "Key"),
    ],
)
def test_a_listing_that_lacks_something_says_what(content: str, lacks: str, s3_server: Server) -> None:
    answer = Answer(status=200, body=(ODD_LISTING % content).encode())
    with (
        fault_proxy(s3_server.spec, lambda _: answer) as proxy,
        pytest.raises(InvalidInputError, match=f"objects without {lacks}"),
    ):
        list(open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF)).list())


LISTED = "<Key>x/a</Key><Size>3</Size><ETag>1</ETag>"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *((LISTED.replace("3", size), "cannot be read: invalid literal") for size in ("abc", "", "1e3")),
        (LISTED.replace("3", "-5"), "an object of -5 bytes"),
        (LISTED.replace("3", "9" * 40), "an object of 9999"),
        (f"{LISTED}<LastModified>yesterday</LastModified>", "cannot be read: Invalid timestamp"),
        (LISTED.replace("x/a", "y/a"), "'y/a' in the listing of x/"),
        (LISTED.replace("x/a", ""), "'' in the listing of x/"),
    ],
)
def test_a_listing_with_a_value_that_is_none_says_which(content: str, said: str, s3_server: Server) -> None:
    answer = Answer(status=200, body=(ODD_LISTING % content).encode())
    with (
        fault_proxy(s3_server.spec, lambda _: answer) as proxy,
        pytest.raises(InvalidInputError, match=said),
    ):
        list(open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF)).list())


@pytest.mark.parametrize("said", ["abc", "-1", "9" * 30])
@pytest.mark.parametrize("name", ["read_bytes", "read_range", "get", "head"])
def test_a_length_that_is_none_says_so_and_writes_nothing(
    name: str, said: str, s3_server: Server, tmp_path: Path
) -> None:
    def act(store: Store) -> None:
        with pytest.raises(StorageError, match=r"an object of|cannot be read: invalid literal"):
            ACTS[name](store, tmp_path)

    _store(s3_server, lambda _: Shaped(say={"content-length": lambda _: said}), act)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["read_range", "get"])
def test_bytes_from_elsewhere_are_not_those_that_were_asked_for(
    name: str, s3_server: Server, tmp_path: Path
) -> None:
    fault = Shaped(say={"content-range": lambda said: said.replace("bytes ", "bytes 1")})

    def act(store: Store) -> None:
        with pytest.raises(StorageError, match=r"bytes 10-\d+/10 as the answer to bytes from 0 on"):
            ACTS[name](store, tmp_path)

    _store(s3_server, lambda _: fault, act)
    assert not (tmp_path / "copy").exists()


def test_a_part_is_no_whole_object(s3_server: Server) -> None:
    answer = Answer(status=206, body=b"0123", headers={"ETag": '"1"', "Content-Range": "bytes 0-3/10"})

    def act(store: Store) -> object:
        return store.read_bytes("key")

    with pytest.raises(StorageError, match=r"a part \(206\) as the answer to a question for the whole"):
        _store(s3_server, lambda _: answer, act)
    assert _store(s3_server, once(lambda r: r.method == "GET", answer), act) == b"0123456789"


@pytest.mark.parametrize(
    ("body", "kind", "error", "said"),
    [
        (gzip.compress((ODD_LISTING % "").encode()), "gzip", InvalidInputError, r"no XML \(application/xml, gzip\)"),
        (b"<br>accept our terms", "identity", InvalidInputError, r"no XML \(application/xml, identity\)"),
        ((ODD_LISTING % LISTED).encode()[:90], "identity", StorageError, "is no whole XML"),
    ],
)  # fmt: skip
def test_a_listing_that_is_no_xml_is_called_so(
    body: bytes, kind: str, error: type[Exception], said: str, s3_server: Server
) -> None:
    headers = {"Content-Type": "application/xml", "Content-Encoding": kind}
    with (
        fault_proxy(s3_server.spec, lambda _: Answer(status=200, body=body, headers=headers)) as proxy,
        pytest.raises(error, match=said),
    ):
        list(open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF)).list())


def test_a_listing_that_breaks_off_is_asked_for_again(s3_server: Server) -> None:
    found = _store(
        s3_server,
        once(lambda r: "list-type" in r.query, Cut(after=150)),
        lambda store: [i.key for i in store.list()],
    )
    assert found == ["key"]


def test_an_object_without_a_length_says_so(s3_server: Server) -> None:
    def act(store: Store) -> None:
        with pytest.raises(StorageError, match="an answer to HeadObject without ContentLength"):
            store.head("key")

    _store(s3_server, lambda _: Shaped(hide=("content-length",)), act)


@pytest.mark.parametrize(
    "say", [lambda tag: f"W/{tag}", lambda tag: tag.strip('"')], ids=["weak", "without quotes"]
)
def test_an_etag_is_the_same_however_it_is_wrapped(
    say: Callable[[str], str], s3_server: Server, tmp_path: Path
) -> None:
    """A proxy that compresses makes those of answers weak and leaves those of listings alone."""

    def act(store: Store) -> object:
        (tmp_path / "copy").unlink(missing_ok=True)
        store.get("key", tmp_path / "copy")
        head = store.head("key")
        return (
            (tmp_path / "copy").read_bytes(),
            head is not None and head.etag,
            [i.etag for i in store.list()],
        )

    content, etag, listed = _store(s3_server, lambda _: Shaped(say={"etag": say}), act)
    assert content == b"0123456789"
    assert listed == [etag]


@pytest.mark.parametrize(
    "refusal", [Answer(status=501, code="NotImplemented"), Answer(status=501)], ids=["S3", "plain"]
)
def test_a_server_that_knows_no_conditions_is_written_to_all_the_same(
    refusal: Answer, s3_server: Server
) -> None:
    def act(store: Store) -> object:
        first, second = store.write_if_absent("new", b"mine"), store.write_if_absent("new", b"theirs")
        return first, second, store.read_bytes("new")

    conditional = always(lambda r: "if-none-match" in r.headers, refusal)
    assert _store(s3_server, conditional, act) == (True, False, b"mine")


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "QuotaExceeded"), (507, "XMinioStorageFull"), (400, "XMinioAdminBucketQuotaExceeded")],
)
def test_a_full_bucket_is_called_so(status: int, code: str, s3_server: Server) -> None:
    def act(store: Store) -> None:
        with pytest.raises(StorageError, match="there is no room left for it") as caught:
            store.write_bytes("key", b"x")
        assert f"make room in bucket {BUCKET}" in (caught.value.action or "")

    _store(s3_server, always(lambda _: True, Answer(status=status, code=code)), act)


@pytest.mark.parametrize("code", ["KMS.DisabledException", "KMS.NotFoundException"])
def test_a_key_of_the_bucket_that_cannot_be_used_is_called_so(code: str, s3_server: Server) -> None:
    def act(store: Store) -> None:
        with pytest.raises(AccessDeniedError, match="the key that the bucket is encrypted with") as caught:
            store.write_bytes("key", b"x")
        assert "KMS key" in (caught.value.action or "")

    _store(s3_server, always(lambda _: True, Answer(status=400, code=code)), act)


def test_content_that_was_altered_on_its_way_is_asked_for_again() -> None:
    assert passing(
        FlexibleChecksumError(error_msg="Expected checksum 1 did not match calculated checksum: 2")
    )
