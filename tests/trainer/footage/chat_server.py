"""A small real HTTP server that answers as chat endpoints do, well or badly, by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[BaseHTTPRequestHandler], None]


def completion(text: Any, **more: Any) -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return json.dumps(
        {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **more}]}
    ).encode()


def said(text: Any, **more: Any) -> Reply:
    """200 with a chat completion."""
    return status(200, completion(text, **more))


def status(code: int, body: bytes = b"", **headers: str) -> Reply:
    """Any status, headers and body."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


@dataclass
class Scripted:
    """A running server: the replies that are still to come (the last one stays), and the requests that came."""

    replies: list[Reply]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Ends the replies that hang."""

    busiest: int = 0
    """Requests that were answered at one time, at most."""

    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Say nothing."""
        self.stopping.wait(30)

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then: no single read waits long, the answer never ends."""
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not self.stopping.wait(0.1):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return

    def enter(self) -> Reply:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def leave(self) -> None:
        with self._lock:
            self._busy -= 1


@contextmanager
def serving(*replies: Reply) -> Iterator[Scripted]:
    """A server on loopback for the length of the block."""
    script = Scripted(list(replies))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            script.requests.append(json.loads(body))
            script.headers.append(dict(self.headers))
            script.paths.append(self.path)
            reply = script.enter()
            try:
                reply(self)
            except OSError:
                self.close_connection = True  # the client has gone
            finally:
                script.leave()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        script.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
