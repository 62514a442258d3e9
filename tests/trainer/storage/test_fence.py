"""Of several attempts only the newest writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mochi_trainer.errors import SupersededError
from mochi_trainer.storage import Fence, FencedStore, Store


def test_an_attempt_writes_until_a_newer_one_begins(store: Store, tmp_path: Path) -> None:
    first = Fence(store, 1)
    first.claim()
    fenced = FencedStore(store, first)
    fenced.write_bytes("report.html", b"one")
    (tmp_path / "file").write_bytes(b"two")
    fenced.put(tmp_path / "file", "artifact")
    Fence(store, 2).claim()
    for write in (
        lambda: fenced.write_bytes("report.html", b"old"),
        lambda: fenced.put(tmp_path / "file", "artifact"),
        lambda: fenced.put_pieces(lambda: iter([b"old"]), 3, "artifact"),
        lambda: fenced.write_if_absent("other", b"old"),
        lambda: fenced.delete(["report.html"]),
    ):
        with pytest.raises(SupersededError, match="attempt 2 of this training has begun") as caught:
            write()
        assert caught.value.exit_code == 12
    assert (fenced.read_bytes("report.html"), fenced.read_bytes("artifact")) == (b"one", b"two")
    assert not fenced.exists("other")


def test_an_attempt_that_begins_late_stops_at_once(store: Store) -> None:
    Fence(store, 10).claim()
    with pytest.raises(SupersededError, match=r"attempt 9 writes no more there.*set run\.attempt to 11"):
        Fence(store, 9).claim()


def test_the_same_attempt_may_begin_again(store: Store) -> None:
    """By hand each is the first."""
    Fence(store, 1).claim()
    Fence(store, 1).claim()
    Fence(store, 1).check()


def test_an_older_attempt_is_no_hindrance(store: Store) -> None:
    Fence(store, 1).claim()
    Fence(store, 2).claim()
    Fence(store, 2).check()
