"""An S3 server for tests whose every object comes piece by piece, as slowly as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mochi_api.spec import S3Spec

PIECE = b"x" * 512 * 1024
PIECES = 4


class SlowServer(ThreadingHTTPServer):
    """Every key has the same pieces; `after_piece` is called after each, in the thread that answers."""

    daemon_threads = True

    def __init__(self, after_piece: Callable[[], object] | None) -> None:
        self.go_on, self.halted = threading.Event(), threading.Event()
        self.after_piece = after_piece or self._halt
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def spec(self) -> S3Spec:
        """How to reach it."""
        return S3Spec(endpoint=f"http://127.0.0.1:{self.server_port}", path_style=True)

    def _halt(self) -> None:
        self.halted.set()
        self.go_on.wait(90)


class _Handler(BaseHTTPRequestHandler):
    server: SlowServer
    timeout = 90

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(PIECES * len(PIECE)))
        self.send_header("ETag", '"0"')
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        try:
            for _ in range(PIECES):
                self.wfile.write(PIECE)
                self.wfile.flush()
                self.server.after_piece()
        except OSError:
            return  # the client went away

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        pass


@contextmanager
def slow_server(
    after_piece: Callable[[], object] = lambda: None, *, halts: bool = False
) -> Iterator[SlowServer]:
    """Such a server for the length of the block. One that halts does so after the first piece, until `go_on` is set."""
    server = SlowServer(None if halts else after_piece)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
