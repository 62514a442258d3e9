"""One question to a chat endpoint over HTTP, with an end to it: no answer takes longer or is larger than it may.

The standard library alone. A timeout of a socket begins anew with each byte, so a server that sends one now and then
would hold a request for ever: the connection is shut down when the time for the whole answer is over.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
LARGEST = 1_000_000
"""Bytes of an answer; a caption and what comes with it take a few thousand."""


class NoAnswerError(Exception):
    """Nothing came, not in time, or too much; another try may help. The message says which."""


class UntrustedError(Exception):
    """The certificate of the server is not trusted, for any question."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server sent."""

    status: int
    body: bytes
    retry_after: float | None = None
    """Seconds that it asks to wait."""

    location: str = ""
    """Where it says that the thing has moved to."""


def require_address(url: str) -> None:
    """Raise ValueError for an address of another kind; a password in it is not repeated."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"the address has a user before the host {parts.hostname}: a key goes with --caption-key-variable"
        )
    if parts.scheme not in KINDS or not parts.hostname:
        raise ValueError(f"the address must begin with http:// or https:// and name a host, got {url}")
    if not url.isascii() or any(character <= " " for character in url):
        raise ValueError(f"the address has a blank or a letter that no address has in it, got {url}")
    _ = parts.port  # raises for what is none


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
    """Send `body` to an http or https address; redirects are not followed, for they would take the key elsewhere.

    Raises NoAnswerError, UntrustedError, ValueError for another kind of address.
    """
    require_address(url)
    parts = urlsplit(url)
    connection = KINDS[parts.scheme](parts.hostname or "", parts.port, timeout=seconds)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    late = threading.Event()
    try:
        with _watched(connection, seconds, late):
            connection.request("POST", target, body, dict(headers))
            answer = _read(connection.getresponse())
    except ssl.SSLCertVerificationError as error:
        raise UntrustedError(
            f"the certificate of {parts.hostname} is not trusted: {error.verify_message}; SSL_CERT_FILE names a file with "
            "that of its authority"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise NoAnswerError(f"no whole answer within {seconds:g} s") from error
        raise NoAnswerError(f"no answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if late.is_set():
        raise NoAnswerError(f"no whole answer within {seconds:g} s")
    return answer


@contextmanager
def _watched(connection: http.client.HTTPConnection, seconds: float, late: threading.Event) -> Iterator[None]:
    """Connect, and end whatever waits on the connection `seconds` after the beginning; `late` tells that it was so.

    The socket is kept here: the connection forgets it as soon as an answer begins. Another thread must not touch the TLS
    layer, only what lies below it.
    """
    began = time.monotonic()
    connection.connect()
    held = connection.sock

    def shut() -> None:
        late.set()
        with suppress(OSError):  # it may have ended by itself
            socket.socket.shutdown(held, socket.SHUT_RDWR)

    watch = threading.Timer(max(0.0, seconds - (time.monotonic() - began)), shut)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _read(response: http.client.HTTPResponse) -> Answer:
    body = response.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise NoAnswerError(f"the answer has more than {LARGEST} bytes")
    if response.length:  # a read with a limit does not complain of what is missing
        raise http.client.IncompleteRead(body, response.length)
    return Answer(
        response.status,
        body,
        _seconds(response.headers.get("Retry-After")),
        response.headers.get("Location", ""),
    )


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After header, which has a number or a date; None for neither."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
