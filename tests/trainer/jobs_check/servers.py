"""S3 servers that do not do what they should: one is silent, one takes nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
EMPTY = (
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount>'
    b"<IsTruncated>false</IsTruncated></ListBucketResult>"
)


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never answers, as an endpoint."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class _ReadOnly(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self._answer(403, REFUSED)

    def do_GET(self) -> None:
        self._answer(200, EMPTY)

    def _answer(self, code: int, body: bytes) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Quiet: the tests have their own output."""


@contextmanager
def read_only_server() -> Iterator[str]:
    """A server with empty buckets that nobody may write to, as an endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ReadOnly)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
