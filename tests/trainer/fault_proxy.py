"""A proxy in front of a real S3 server that does wrong what a test wants done wrong, and counts what passed.

It hands on the bytes that it is given, with the client's own Host header, so that signatures stay right.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from mochi_api.spec import S3Spec

PIECE = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """In lower case."""
    number: int
    """How many requests of this method and path came before."""

    @property
    def uploads_part(self) -> bool:
        """Whether it is a part of an upload in parts."""
        return self.method == "PUT" and "partNumber" in self.query

    @property
    def deletes_many(self) -> bool:
        """Whether it is DeleteObjects."""
        return self.method == "POST" and "delete" in self.query


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of the proxy's own, in the form of S3 where `code` is given."""

    status: int
    code: str = ""
    words: str = "made up by a test"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    extra: str = ""
    """Further elements of the error."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The server's answer, but for its end: the connection is closed after so many bytes of the body."""

    after: int


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The request is handed on, or not even that, and the connection closed without an answer."""

    done: bool


@dataclass(frozen=True, kw_only=True)
class Shaped:
    """The server's answer so late, and no faster."""

    seconds: float = 0
    bytes_per_second: float = 0
    hide: tuple[str, ...] = ()
    """Headers that are left out."""
    say: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    """Headers, in lower case, that are said otherwise."""


Fault = Answer | Cut | Lost | Shaped
Rule = Callable[[Request], Fault | None]


Outgoing = Callable[[str, str, Mapping[str, str]], Mapping[str, str]]
"""Method, path with its query and headers of a request to the headers with which it is handed on."""


class FaultProxy(ThreadingHTTPServer):
    """Does to each request what `rule` says; None hands it on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, upstream: S3Spec, rule: Rule, tls: ssl.SSLContext | None, host: str, outgoing: Outgoing
    ) -> None:
        self.upstream, self.rule, self.outgoing = urlsplit(upstream.endpoint), rule, outgoing
        self.seen: list[Request] = []
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        super().__init__((host, 0), _Handler)
        scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.spec = upstream.model_copy(update={"endpoint": f"{scheme}://{host}:{self.server_port}"})

    def noted(self, handler: BaseHTTPRequestHandler) -> Request:
        """The request of a handler, counted."""
        address = urlsplit(handler.path)
        with self._lock:
            number = self._counts.get((handler.command, address.path), 0)
            self._counts[handler.command, address.path] = number + 1
            request = Request(
                method=handler.command,
                path=address.path,
                query=parse_qs(address.query, keep_blank_values=True),
                headers={name.lower(): value for name, value in handler.headers.items()},
                number=number,
            )
            self.seen.append(request)
        return request

    def methods(self) -> list[str]:
        """Of all requests, in order."""
        return [request.method for request in self.seen]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what tests want."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"
    timeout = 90

    def _any(self) -> None:
        request = self.server.noted(self)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.rule(request)
        if isinstance(fault, Answer):
            self._own(fault)
        elif isinstance(fault, Lost) and not fault.done:
            self.close_connection = True
        else:
            self._handed_on(body, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

    def _own(self, answer: Answer) -> None:
        body = answer.body
        if answer.code:
            body = (
                f'<?xml version="1.0"?><Error><Code>{answer.code}</Code><Message>{answer.words}</Message>'
                f"{answer.extra}</Error>"
            ).encode()
        (self.send_response_only if "Date" in answer.headers else self.send_response)(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.code:
            self.send_header("x-amz-request-id", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handed_on(self, body: bytes, fault: Fault | None) -> None:
        shaped = fault if isinstance(fault, Shaped) else Shaped()
        time.sleep(shaped.seconds)
        upstream = http.client.HTTPConnection(
            self.server.upstream.hostname or "", self.server.upstream.port, timeout=90
        )
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.server.outgoing(
                self.command, self.path, dict(self.headers.items())
            ).items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            if isinstance(fault, Lost):
                answer.read()
                self.close_connection = True
                return
            self._passed(answer, shaped, fault.after if isinstance(fault, Cut) else None)
        finally:
            upstream.close()

    def _passed(self, answer: http.client.HTTPResponse, shaped: Shaped, after: int | None) -> None:
        chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
        whole = answer.read() if chunked else b""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in {"transfer-encoding", "connection", "server", "date", *shaped.hide}:
                self.send_header(name, shaped.say.get(name.lower(), str)(value))
        if chunked:
            self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        left = float("inf") if after is None else after
        while left > 0 and (piece := _next(answer, whole, min(PIECE, left))):
            whole = whole[len(piece) :]
            self.wfile.write(piece)
            left -= len(piece)
            if shaped.bytes_per_second:
                time.sleep(len(piece) / shaped.bytes_per_second)
        if after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        pass


def _next(answer: http.client.HTTPResponse, whole: bytes, size: float) -> bytes:
    return whole[: int(size)] if whole else answer.read(int(size))


@contextmanager
def fault_proxy(
    upstream: S3Spec,
    rule: Rule,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    outgoing: Outgoing = lambda _method, _path, headers: headers,
) -> Iterator[FaultProxy]:
    """Such a proxy for the length of the block, at a port of an address of this machine; `outgoing` may change headers."""
    proxy = FaultProxy(upstream, rule, tls, host, outgoing)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(timeout=10)


def once(when: Callable[[Request], bool], fault: Fault) -> Rule:
    """The first request of which `when` holds has it."""
    lock, done = threading.Lock(), []

    def rule(request: Request) -> Fault | None:
        with lock:
            if done or not when(request):
                return None
            done.append(request)
            return fault

    return rule


def always(when: Callable[[Request], bool], fault: Fault) -> Rule:
    """Every request of which `when` holds has it."""
    return lambda request: fault if when(request) else None
