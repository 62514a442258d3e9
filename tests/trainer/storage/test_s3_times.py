"""Times of an S3 server's answers are read as botocore reads them, in less time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from botocore.utils import parse_timestamp

from mochi_api.spec import S3Spec
from mochi_trainer.storage import Connection, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, fault_proxy

TIMES = [
    "2026-11-29T22:40:20.000Z", "2026-11-29T22:40:20Z", "2026-11-29T22:40:20.123456789Z", "2026-11-29T22:40:20+02:00",
    "2026-11-29T22:40:20", "20261129T224020Z", "Sun, 29 Nov 2026 22:40:20 GMT", "Sunday, 29-Nov-26 22:40:20 GMT",
    "1764456020", "1764456020.5",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the local time is not UTC, so that a time without a zone is not right by chance."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def page(said: str) -> bytes:
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><KeyCount>1</KeyCount>'
        f"<IsTruncated>false</IsTruncated><Contents><Key>x/a</Key><LastModified>{said}</LastModified>"
        "<ETag>1</ETag><Size>1</Size></Contents></ListBucketResult>"
    ).encode()


@pytest.mark.parametrize("said", TIMES)
def test_a_time_is_what_botocore_makes_of_it(said: str, s3_server: Server) -> None:
    with fault_proxy(s3_server.spec, lambda _: Answer(status=200, body=page(said))) as proxy:
        (found,) = open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec)).list()
    expected = parse_timestamp(said)
    expected = expected if expected.tzinfo else expected.replace(tzinfo=UTC)
    assert found.modified == pytest.approx(expected.timestamp(), abs=1e-3)


def test_an_object_just_written_has_the_time_of_now(s3_server: Server) -> None:
    store = open_store(f"s3://{BUCKET}/times/", S3Spec.model_validate(s3_server.spec.model_dump()))
    store.write_bytes("a", b"x")
    (listed,), head = list(store.list()), store.head("a")
    assert head is not None
    now = datetime.now(UTC).timestamp()
    assert abs(listed.modified - now) < 120
    assert abs(listed.modified - head.modified) < 1.5
