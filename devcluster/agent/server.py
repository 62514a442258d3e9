"""The kubelet's HTTPS port: container logs and health. exec, attach and port-forward are answered with 501.

There is no client authentication: it listens on a loopback address of this machine only.
"""

from __future__ import annotations

import logging
import select
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from devcluster.agent import logs

log = logging.getLogger(__name__)
CHUNK = 65536
HANDSHAKE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LogFile:
    """A container's log: where it is, and whether more may come."""

    path: Path
    running: Callable[[], bool]


FindLog = Callable[[str, str, str, bool], LogFile | None]
"""(namespace, pod, container, previous) -> its log."""


def batched(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in larger pieces."""
    held: list[bytes] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) >= size:
            yield b"".join(held)
            held = []
    if held:
        yield b"".join(held)


def self_signed(folder: Path, ip: str) -> tuple[Path, Path]:
    """A fresh certificate and key made by the `openssl` program. Raises `OSError` without it."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "agent.crt", folder / "agent.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "365", "-subj", "/CN=devcluster-agent", "-addext", f"subjectAltName=IP:{ip}"]
    try:
        subprocess.run(
            [*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=30
        )
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        raise OSError(
            f"no certificate for the log server: openssl is needed, or --tls-cert and --tls-key ({error})"
        ) from error
    key.chmod(0o600)
    return certificate, key


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    find_log: FindLog

    def setup(self) -> None:
        """Do the TLS handshake here, in the connection's own thread."""
        self.request.settimeout(HANDSHAKE_SECONDS)
        super().setup()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Requests are not logged."""

    def do_GET(self) -> None:
        """Logs and health."""
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.split("/") if part]
        if parts == ["healthz"]:
            self._text(HTTPStatus.OK, "ok")
        elif len(parts) == 4 and parts[0] == "containerLogs":
            self._logs(parts[1], parts[2], parts[3], dict(parse_qsl(url.query)))
        else:
            self._unsupported()

    def do_POST(self) -> None:
        """exec, attach, port-forward, run."""
        self._unsupported()

    def _unsupported(self) -> None:
        what = self.path.split("/")[1].partition("?")[0] or "/"
        self._text(
            HTTPStatus.NOT_IMPLEMENTED, f"{what} is not supported by the devcluster agent, only logs are"
        )

    def _text(self, code: HTTPStatus, text: str) -> None:
        body = (text + "\n").encode()
        self.close_connection = True
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _logs(self, namespace: str, pod: str, container: str, query: dict[str, str]) -> None:
        found = self.find_log(namespace, pod, container, query.get("previous") == "true")
        if found is None or not found.path.exists():
            kind = "previous terminated container" if query.get("previous") == "true" else "log of container"
            self._text(HTTPStatus.BAD_REQUEST, f'{kind} "{container}" in pod "{pod}" not found')
            return
        try:
            options = logs.LogOptions.from_query(query, datetime.now(UTC))
        except ValueError as error:
            self._text(HTTPStatus.BAD_REQUEST, str(error))
            return
        pieces = logs.read(found.path, options, lambda: found.running() and not self._hung_up())
        try:
            self._stream(pieces if options.follow else batched(pieces, CHUNK))
        except OSError:
            self.close_connection = True

    def _hung_up(self) -> bool:
        """Nothing is expected from the client any more, so anything to read is its end."""
        return bool(select.select([self.connection], [], [], 0)[0])

    def _stream(self, pieces: Iterable[bytes]) -> None:
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no event."""
        log.debug("connection %s of %s ended early", request, client_address)


def serve(ip: str, port: int, certificate: Path, key: Path, find_log: FindLog) -> ThreadingHTTPServer:
    """Serve in threads of its own; end with `shutdown` and `server_close`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("BoundHandler", (Handler,), {"find_log": staticmethod(find_log)})
    server = _Server((ip, port), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, name="log server", daemon=True).start()
    return server
