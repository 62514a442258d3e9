"""Requests to S3 are counted by what became of them."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest

from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.storage import counts, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, fault_proxy, once


def test_answers_questions_and_faults_are_told_apart(s3_server: Server) -> None:
    before = Counter(counts())
    rule = once(
        lambda request: request.method == "GET" and request.path.endswith("/a"),
        Answer(status=403, code="RequestTimeTooSkewed"),
    )
    with fault_proxy(s3_server.spec, rule) as proxy:
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}", proxy.spec)
        store.write_bytes("a", b"x")
        with pytest.raises(StorageError):
            store.read_bytes("a")
        assert store.read_bytes("a") == b"x"
        assert not store.exists("b")
        with pytest.raises(MissingObjectError):
            store.read_bytes("b")
    found = Counter(counts()) - before
    assert found["PutObject", "ok"] == 1
    assert found["GetObject", "refused"] == 1
    assert found["GetObject", "ok"] == 2
    assert found["HeadObject", "ok"] == 1
