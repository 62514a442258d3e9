"""What every store does, on a directory and on a real S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mochi_trainer.errors import MissingObjectError
from mochi_trainer.storage import Store, put_pieces_entry

ODD_KEYS = [
    "plain.txt",
    "a folder/with spaces.txt",
    "ünïcode/日本語.txt",
    "percent%20and%.txt",
    "hash#question?plus+.txt",
    "quote'\"and&ampersand.txt",
]


class TestEveryStore:
    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_gives_back_what_was_written_under_any_key(self, store: Store, key: str) -> None:
        store.write_bytes(key, b"content")
        assert store.read_bytes(key) == b"content"
        assert [info.key for info in store.list()] == [key]

    def test_lists_in_the_order_of_bytes_below_a_prefix(self, store: Store) -> None:
        for key in ("b/2", "b/10", "a", "b/é", "b-x", "b/Z"):
            store.write_bytes(key, key.encode())
        found = list(store.list("b/"))
        assert [info.key for info in found] == ["b/10", "b/2", "b/Z", "b/é"]
        assert [info.size for info in found] == [4, 3, 3, 4]

    def test_takes_part_of_a_name_as_prefix(self, store: Store) -> None:
        for key in ("step-1/a", "step-12/a", "other"):
            store.write_bytes(key, b"x")
        assert [info.key for info in store.list("step-1")] == ["step-1/a", "step-12/a"]

    def test_is_empty_at_first(self, store: Store) -> None:
        assert list(store.list()) == []
        assert list(store.list("no/such/")) == []
        assert not store.exists("anything")
        assert store.head("anything") is None

    def test_names_the_address_of_what_is_missing(self, store: Store, tmp_path: Path) -> None:
        for read in (
            lambda: store.read_bytes("gone.txt"),
            lambda: store.read_range("gone.txt", 0, 4),
            lambda: store.get("gone.txt", tmp_path / "gone"),
        ):
            with pytest.raises(MissingObjectError) as caught:
                read()
            assert store.address("gone.txt") in str(caught.value)
        assert not (tmp_path / "gone").exists()

    def test_moves_large_files_in_parts_unharmed(self, store: Store, tmp_path: Path) -> None:
        data = bytes(range(256)) * (4096 * 9)
        (tmp_path / "large").write_bytes(data)
        store.put(tmp_path / "large", "large.bin")
        store.get("large.bin", tmp_path / "new folder" / "copy")
        assert store.head("large.bin").size == len(data)
        copy = (tmp_path / "new folder" / "copy").read_bytes()
        assert hashlib.sha256(copy).digest() == hashlib.sha256(data).digest()

    @pytest.mark.parametrize("size", [0, 5, 20 * 1024 * 1024 + 1])
    def test_takes_pieces_of_any_size_as_one_object(self, store: Store, size: int) -> None:
        data = bytes(range(251)) * (size // 251 + 1)
        cuts = [0, 0, 1, 3, size // 2, size // 2 + 7, size]
        pieces = [memoryview(data)[start:end] for start, end in pairwise(cuts) if start <= end <= size]
        whole = b"".join(pieces)
        entry = put_pieces_entry(store, "folder", lambda: iter(pieces), len(whole), "object")
        assert store.read_bytes("folder/object") == whole
        assert (entry.size, entry.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())

    @pytest.mark.parametrize("size", [5, 20 * 1024 * 1024])
    def test_stores_nothing_of_pieces_that_break_off(self, store: Store, size: int) -> None:
        def broken() -> Iterator[bytes]:
            yield b"x" * (size // 2)
            raise KeyError("no more")

        store.write_bytes("key", b"before")
        with pytest.raises(KeyError):
            store.put_pieces(broken, size, "key")
        assert store.read_bytes("key") == b"before"

    def test_keeps_empty_objects(self, store: Store) -> None:
        store.write_bytes("empty", b"")
        assert store.read_bytes("empty") == b""
        assert store.head("empty").size == 0

    def test_reads_ranges_and_stops_at_the_end(self, store: Store) -> None:
        store.write_bytes("digits", b"0123456789")
        assert store.read_range("digits", 2, 3) == b"234"
        assert store.read_range("digits", 8, 100) == b"89"
        assert store.read_range("digits", 10, 5) == b""
        assert store.read_range("digits", 0, 0) == b""

    def test_writes_if_absent_only_once(self, store: Store) -> None:
        assert store.write_if_absent("lock", b"first")
        assert not store.write_if_absent("lock", b"second")
        assert store.read_bytes("lock") == b"first"

    def test_changes_the_etag_with_the_content(self, store: Store) -> None:
        store.write_bytes("object", b"one")
        before = store.head("object").etag
        store.write_bytes("object", b"three")
        assert store.head("object").etag != before
        assert next(iter(store.list())).etag == store.head("object").etag

    def test_deletes_many_and_does_not_mind_absent_ones(self, store: Store) -> None:
        for number in range(5):
            store.write_bytes(f"old/{number}", b"x")
        store.delete([*(f"old/{number}" for number in range(4)), "never/there"])
        assert [info.key for info in store.list()] == ["old/4"]
        store.delete([])

    def test_replaces_an_object(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(b"new")
        store.write_bytes("object", b"old and longer")
        store.put(tmp_path / "source", "object")
        assert store.read_bytes("object") == b"new"
