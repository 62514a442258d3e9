"""An answer of a byte a second breaks no limit on silence: it ends in bounded time all the same, wherever it is slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import StorageError
from mochi_trainer.storage import Connection, Patience, Store, open_store
from mochi_trainer.storage.s3_pace import (
    BLANK_SECONDS,
    PIECE_BYTES,
    Pace,
    SentPace,
    SlowAnswerError,
)

HASTY = Patience(
    connect_seconds=2, read_seconds=2, slow_seconds=1, attempts=1, first_seconds=2, total_seconds=2, renewal_seconds=0
)  # fmt: skip
HEAD = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 100000\r\n\r\n'


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")


@contextmanager
def _served(listening: socket.socket, answer: Callable[[socket.socket], None]) -> Iterator[Store]:
    """A store behind a socket, each of whose clients has an `answer` of its own."""

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    spec = S3Spec(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}", path_style=True)
    yield open_store("s3://data/x", spec, Connection(spec, HASTY))


@contextmanager
def _server(at_once: bytes, drops: Iterable[bytes]) -> Iterator[Store]:
    """What answers every request with `at_once`, then a drop ten times a second, and hangs up."""
    over = threading.Event()

    def answer(client: socket.socket) -> None:
        with client:
            client.recv(65536)
            client.sendall(at_once)
            for drop in drops:
                if over.wait(0.1):
                    return
                try:
                    client.sendall(drop)
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listening, _served(listening, answer) as store:
        yield store
        over.set()


CALLS: dict[str, Callable[[Store, Path], object]] = {
    "read_bytes": lambda s, _: s.read_bytes("k"),
    "read_range": lambda s, _: s.read_range("k", 0, 100000),
    "get": lambda s, folder: s.get("k", folder / "copy"),
    "list": lambda s, _: list(s.list()),
    "head": lambda s, _: s.head("k"),
    "write_bytes": lambda s, _: s.write_bytes("k", b"x"),
    "delete": lambda s, _: s.delete(["k"]),
}
WITH_BODIES = ("read_bytes", "read_range", "list")


@pytest.mark.parametrize(
    ("name", "at_once"),
    [*((name, b"HTTP/1.1 200 OK\r\nX-Y: ") for name in CALLS), *((name, HEAD) for name in WITH_BODIES)],
)
def test_an_answer_that_drips_is_none(name: str, at_once: bytes, tmp_path: Path) -> None:
    begun = time.monotonic()
    with (
        _server(at_once, repeat(b"x")) as store,
        pytest.raises(StorageError, match=r"only \d+ bytes of an answer came in \d s"),
    ):
        CALLS[name](store, tmp_path)
    assert time.monotonic() - begun < 20


def test_half_an_answer_to_a_question_before_an_upload_is_none() -> None:
    """botocore by itself reads on for ever, with a whole processor."""
    with (
        _server(b"HTTP/1.1 100 Continue\r\n", ()) as store,
        pytest.raises(StorageError, match="closed within the first lines of the answer"),
    ):
        store.write_bytes("k", b"x")


def test_a_slow_answer_that_ends_in_time_is_one() -> None:
    content = b"01234"
    head = HEAD.replace(b"100000", str(len(content)).encode())
    with _server(head, [bytes([byte]) for byte in content]) as store:
        assert store.read_bytes("k") == content


def test_what_comes_fast_enough_may_take_any_time() -> None:
    pace = Pace(60)
    for _ in range(1000):
        pace.came(memoryview(bytes(16 * 1024)), 14)


@contextmanager
def _sipping(bytes_per_second: int) -> Iterator[Store]:
    """What takes so little of what it is sent."""
    over = threading.Event()

    def sip(client: socket.socket) -> None:
        with client, suppress(OSError):
            while not over.wait(0.1) and client.recv(bytes_per_second // 10):
                pass

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with _served(listening, sip) as store:
            yield store
            over.set()


def test_an_upload_that_drips_has_a_limit_of_its_own() -> None:
    """Each piece is taken well before anybody is silent for too long."""
    begun = time.monotonic()
    with (
        _sipping(40_000) as store,
        pytest.raises(StorageError, match=r"only \d+ bytes were taken of what is sent in \d s"),
    ):
        store.write_bytes("k", bytes(16 * 1024 * 1024))
    assert time.monotonic() - begun < 20


def test_the_limit_of_an_upload_follows_from_its_size() -> None:
    """60 s for each 512 KiB: a part of 8 MiB may take 16 minutes."""
    pieces = 8 * 1024 * 1024 // PIECE_BYTES
    _sent(SentPace(60), pieces, seconds=16 * 60)
    with pytest.raises(SlowAnswerError, match=r"bytes were taken of what is sent in 6[0-4] s"):
        _sent(SentPace(60), pieces, seconds=20 * 60)


def _sent(pace: SentPace, pieces: int, seconds: float) -> None:
    for _ in range(pieces):
        pace.went(PIECE_BYTES, seconds / pieces)


def test_blanks_hold_a_connection_for_a_while() -> None:
    pace = Pace(60)
    for _ in range(int(BLANK_SECONDS)):
        pace.came(memoryview(b" "), 1)
    with pytest.raises(SlowAnswerError):
        _came_in(pace, seconds=130)


def _came_in(pace: Pace, seconds: int) -> None:
    for _ in range(seconds):
        pace.came(memoryview(b" "), 1)
