"""What only a directory can do wrong."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import (
    AccessDeniedError,
    DiskFullError,
    InvalidInputError,
    StorageError,
    TrainerError,
)
from mochi_trainer.storage import open_store


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "", "/etc/passwd", "a//b"])
def test_keys_stay_below_the_root(tmp_path: Path, key: str) -> None:
    store = open_store(f"file://{tmp_path}/root", S3Spec())
    (tmp_path / "secret").write_text("x")
    with pytest.raises(InvalidInputError, match="not a key below"):
        store.read_bytes(key)


def test_a_failed_upload_leaves_nothing_behind(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/root", S3Spec())
    with pytest.raises(Exception, match="absent"):
        store.put(tmp_path / "absent", "folder/key")
    assert [path.name for path in (tmp_path / "root").rglob("*")] == ["folder"]


def test_addresses_may_have_spaces(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/my%20clips", S3Spec()).write_bytes("a", b"1")
    assert (tmp_path / "my clips" / "a").read_bytes() == b"1"


def test_a_listing_says_when_each_file_was_written_as_head_does(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/root", S3Spec())
    before = time.time() - 60
    store.write_bytes("a/b", b"1")
    (info,) = store.list()
    assert info == store.head("a/b")
    assert info.modified > before


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_links_is_enough(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linkless(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", linkless)
    store = open_store(f"file://{tmp_path}", S3Spec())
    assert [store.write_if_absent("a/b", data) for data in (b"mine", b"theirs")] == [True, False]
    assert store.read_bytes("a/b") == b"mine"
    assert [info.key for info in store.list()] == ["a/b"]


@pytest.mark.parametrize(
    ("code", "kind", "words", "action"),
    [
        (errno.ENOSPC, DiskFullError, "no space left for", "make room on the volume of"),
        (errno.EDQUOT, DiskFullError, "no space left for", "make room on the volume of"),
        (
            errno.EROFS,
            AccessDeniedError,
            "mounted for reading only",
            "for writing, or write the results elsewhere",
        ),
        (errno.EACCES, AccessDeniedError, "no permission for", "as whom this process runs"),
        (errno.EIO, StorageError, "Input/output error", "look at the volume of"),
        (errno.ESTALE, StorageError, "Stale file handle", "look at the volume of"),
    ],
)
def test_a_folder_that_fails_is_told_without_a_word_of_s3(
    code: int,
    kind: type[TrainerError],
    words: str,
    action: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    store = open_store(f"file://{tmp_path}", S3Spec())
    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(kind, match=words) as caught:
        store.write_bytes("a", b"x")
    assert action in (caught.value.action or "")
    assert f"file://{tmp_path}" in f"{caught.value} {caught.value.action}"
