"""What a port speaks, asked of the port itself: a library's words for the wrong one depend on the server behind it."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Literal
from urllib.parse import urlsplit

Speech = Literal["TLS", "HTTP"]
ASK_SECONDS = 2.0
"""For each of two questions, after all other waits: what speaks at all answers in a round trip."""

_RECORDS = (b"\x15\x03", b"\x16\x03")
"""How an alert and a handshake of TLS begin."""


def spoken(endpoint: str) -> Speech | None:
    """What the port of an endpoint speaks; None where it does not say."""
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    for question in (_hello(host), f"HEAD / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()):
        answer = _answer(host, port, question)
        if answer is None:
            return None
        if answer.startswith(_RECORDS):
            return "TLS"
        if answer.startswith(b"HTTP/"):
            return "HTTP"
    return None


def _hello(host: str) -> bytes:
    """What a client says first over TLS."""
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def _answer(host: str, port: int, question: bytes) -> bytes | None:
    """The first bytes that come back; empty where it says nothing, None where nobody listens."""
    try:
        asked = socket.create_connection((host, port), timeout=ASK_SECONDS)
    except OSError:
        return None
    with asked, suppress(OSError):
        asked.sendall(question)
        return asked.recv(16)
    return b""
