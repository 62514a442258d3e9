"""What goes wrong with S3 says whose move it is."""

from __future__ import annotations

import time

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import AccessDeniedError, InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.storage import find_manifest, open_store


def test_a_wrong_bucket_is_a_missing_object_with_its_name(s3_server) -> None:
    store = open_store("s3://no-such-bucket/prefix/", s3_server.spec)
    for act in (
        lambda: list(store.list()),
        lambda: store.read_bytes("key"),
        lambda: store.head("key"),
        lambda: store.write_bytes("key", b""),
    ):
        with pytest.raises(MissingObjectError, match="bucket no-such-bucket of s3://no-such-bucket/prefix/"):
            act()
    assert find_manifest(store, "any") is None


@pytest.mark.parametrize(
    ("variable", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")]
)
def test_wrong_credentials_name_the_secret(
    s3_server, monkeypatch, tmp_path, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    store = open_store("s3://data/x/", s3_server.spec)
    for act in (
        lambda: list(store.list()),
        lambda: store.head("key"),
        lambda: store.get("key", tmp_path / "x"),
    ):
        with pytest.raises(AccessDeniedError, match=r"s3://data/x/.*Secret s3-keys"):
            act()


def test_no_credentials_say_that_the_field_is_empty(s3_server, monkeypatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    spec = s3_server.spec.model_copy(update={"credentials_secret_name": ""})
    with pytest.raises(AccessDeniedError, match=r"no S3 credentials .*credentialsSecretName is empty"):
        open_store("s3://data/x/", spec).read_bytes("key")


def test_an_endpoint_that_does_not_answer_is_tried_again_within_a_limit(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    spec = S3Spec(endpoint="http://127.0.0.1:9", path_style=True)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://data/x/key at http://127\.0\.0\.1:9"):
        open_store("s3://data/x/", spec).read_bytes("key")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("uri", ["https://bucket/x", "s3://", "file://relative", "/folder", ""])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(InvalidInputError, match="must start with"):
        open_store(uri, S3Spec())
