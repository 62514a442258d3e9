"""Bytes that come slowly are movement; a store that hangs is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mochi_trainer.errors import PreemptedError
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage import Store, open_store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.storage.manifest import file_sha256
from tests.trainer.slow_store import PIECE, PIECES, slow_server

Reading = Callable[[Store, Path], object]

READINGS: dict[str, Reading] = {
    "read_bytes": lambda store, _: store.read_bytes("key"),
    "read_range": lambda store, _: store.read_range("key", 0, 10**9),
    "get": lambda store, folder: store.get("key", folder / "copy"),
}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")


@pytest.mark.parametrize("name", READINGS)
def test_a_store_that_is_slow_moves_with_each_piece(name: str, tmp_path: Path) -> None:
    """The next one comes only when the one before was movement."""
    moved, seen = threading.Event(), []

    def after_piece() -> None:
        seen.append(moved.wait(60))
        moved.clear()

    with slow_server(after_piece) as server, PROCESS.heard(moved.set):
        READINGS[name](open_store("s3://data/x", server.spec), tmp_path)
    assert seen == [True] * PIECES


@pytest.mark.parametrize("name", READINGS)
def test_a_store_that_hangs_is_quiet(name: str, tmp_path: Path) -> None:
    with slow_server(halts=True) as server:
        reader = threading.Thread(
            target=lambda: READINGS[name](open_store("s3://data/x", server.spec), tmp_path), daemon=True
        )
        reader.start()
        assert server.halted.wait(60)
        end = time.monotonic() + 60
        while (quiet := PROCESS.heartbeat().quiet_seconds) < 1.5 and time.monotonic() < end:
            time.sleep(0.05)
        server.go_on.set()
        reader.join(60)
    assert quiet >= 1.5
    assert not reader.is_alive()


@pytest.mark.parametrize("name", READINGS)
def test_a_listener_can_end_the_reading(name: str, tmp_path: Path) -> None:
    """As SIGTERM does while a training loads, in whichever thread reads."""

    def stop() -> None:
        raise PreemptedError("stopped")

    with (
        slow_server() as server,
        PROCESS.heard(stop),
        pytest.raises(PreemptedError, match="stopped"),
    ):
        READINGS[name](open_store("s3://data/x", server.spec), tmp_path)
    assert not (tmp_path / "copy").exists()


def test_what_is_read_in_pieces_is_whole(tmp_path: Path) -> None:
    with slow_server() as server:
        store = open_store("s3://data/x", server.spec)
        READINGS["get"](store, tmp_path)
        assert store.read_bytes("key") == (tmp_path / "copy").read_bytes() == PIECE * PIECES


def test_copying_and_hashing_a_large_file_move_more_than_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"1" * (9 << 20))
    count = [0]

    def moved() -> None:
        count[0] += 1

    with PROCESS.heard(moved):
        LocalStore(tmp_path / "store").put(source, "key")
        put, count[0] = count[0], 0
        LocalStore(tmp_path / "store").get("key", tmp_path / "copy")
        got, count[0] = count[0], 0
        assert file_sha256(source) == file_sha256(tmp_path / "copy")
    assert (put, got, count[0]) == (36, 36, 72)  # 256 KiB each
