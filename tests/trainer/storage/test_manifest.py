"""A directory exists when its manifest and everything it lists do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.storage import (
    Store,
    find_manifest,
    get_entry,
    put_bytes_entry,
    put_entry,
    read_manifest,
    write_manifest,
)


def _directory(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    entries = [
        put_entry(store, "stage/key", tmp_path / "file", "b.bin"),
        put_bytes_entry(store, "stage/key", b"from memory", "a.bin"),
    ]
    write_manifest(store, "stage/key", entries, {"note": "ünï"})


def test_what_was_written_is_read_and_checked(store: Store, tmp_path: Path) -> None:
    _directory(store, tmp_path)
    manifest = read_manifest(store, "stage/key")
    assert list(manifest.entries) == ["a.bin", "b.bin"]
    assert manifest.details == {"note": "ünï"}
    get_entry(store, manifest, "a.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"from memory"


def test_without_its_manifest_a_directory_does_not_exist(store: Store) -> None:
    put_bytes_entry(store, "stage/key", b"x", "a.bin")
    with pytest.raises(MissingObjectError, match=r"stage/key/manifest\.json"):
        read_manifest(store, "stage/key")
    assert find_manifest(store, "stage/key") is None


def test_an_object_that_is_gone_or_cut_off_makes_the_directory_incomplete(
    store: Store, tmp_path: Path
) -> None:
    _directory(store, tmp_path)
    store.write_bytes("stage/key/a.bin", b"from mem")
    with pytest.raises(MissingObjectError, match=r"a\.bin has 8 bytes, its manifest lists 11"):
        read_manifest(store, "stage/key")
    store.delete(["stage/key/a.bin"])
    with pytest.raises(MissingObjectError, match=r"a\.bin is gone"):
        read_manifest(store, "stage/key")
    assert find_manifest(store, "stage/key") is None


def test_changed_content_of_the_same_size_is_found_by_its_hash(store: Store, tmp_path: Path) -> None:
    _directory(store, tmp_path)
    manifest = read_manifest(store, "stage/key")
    store.write_bytes("stage/key/a.bin", b"from MEMORY")
    with pytest.raises(StorageError, match=r"a\.bin is not what its manifest lists"):
        get_entry(store, manifest, "a.bin", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"version": 99, "entries": [], "details": {}}'])
def test_a_manifest_that_cannot_be_read_is_as_good_as_none(store: Store, data: bytes) -> None:
    store.write_bytes("stage/key/manifest.json", data)
    assert find_manifest(store, "stage/key") is None


def test_neighbours_with_a_longer_name_do_not_count(store: Store) -> None:
    write_manifest(store, "step-1", [put_bytes_entry(store, "step-1", b"x", "a")])
    put_bytes_entry(store, "step-12", b"longer", "a")
    assert find_manifest(store, "step-1") is not None
    assert find_manifest(store, "step-12") is None


LINE = {"name": "a.bin", "size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({"version": 1, "entries": 3, "details": {}}),
        json.dumps({"version": 1, "entries": [3], "details": {}}),
        *(
            json.dumps({"version": 1, "entries": [{**LINE, name: value}], "details": {}})
            for name in LINE
            for value in (None, [], 1.5)
        ),
    ],
    ids=lambda text: text[:70] or "empty",
)
def test_what_is_no_manifest_makes_no_directory(store: Store, text: str) -> None:
    store.write_bytes("stage/key/manifest.json", text.encode())
    with pytest.raises(MissingObjectError, match="is not a manifest"):
        read_manifest(store, "stage/key")
