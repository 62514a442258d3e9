"""The server of `/metrics` and, on rank 0, `/progress` and `/heartbeat`: in threads of its own, so that training never waits for it."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from mochi_api import heartbeat, identity
from mochi_api.identity import POD_IP_ENV
from mochi_api.progress import PORT
from mochi_trainer.movement import Movement
from mochi_trainer.train.gauges import Gauges

log = logging.getLogger(__name__)

PORT_ENV = identity.METRICS_PORT_ENV
READ_SECONDS = 5
"""A client that sends nothing for so long is dropped."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, address: str, port: int, gauges: Gauges, movement: Movement, *, progress: bool
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.gauges, self.movement, self.shows_progress = gauges, movement, progress
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        """As the base class, without its look-up of the host's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(CONTENT_TYPE_LATEST, self.server.gauges.exposition())
        elif path == "/progress" and self.server.shows_progress:
            document = self.server.gauges.progress().model_dump_json(by_alias=True)
            self._answer("application/json", document.encode())
        elif path == heartbeat.PATH and self.server.shows_progress:
            document = self.server.movement.heartbeat().model_dump_json(by_alias=True, exclude_none=True)
            self._answer("application/json", document.encode())
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        log.debug(format, *args)

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(
    gauges: Gauges,
    movement: Movement,
    *,
    progress: bool,
    address: str | None = None,
    port: int | None = None,
) -> Iterator[str | None]:
    """Serve for the length of the block; gives the address, or None when the port is taken: training goes on without.

    The address is the pod's own unless given: pods may share one network.
    """
    host = os.environ.get(POD_IP_ENV, "") if address is None else address
    chosen = int(os.environ.get(PORT_ENV, "") or PORT) if port is None else port
    try:
        server = _Server(host, chosen, gauges, movement, progress=progress)
    except OSError as error:
        log.warning("no /metrics and /progress on %s:%d: %s", host or "all addresses", chosen, error)
        yield None
        return
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{'[' + host + ']' if ':' in host else host or '127.0.0.1'}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
