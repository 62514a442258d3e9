"""A way to the tests' S3 server on which every answer takes its time, as from another region."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from mochi_api.spec import S3Spec


@contextmanager
def distant(spec: S3Spec, seconds: float) -> Iterator[S3Spec]:
    """How to reach the server of `spec` through a relay that holds back each piece of an answer for `seconds`."""
    target = urlsplit(spec.endpoint)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(
            target=_relay_all, args=(listener, (target.hostname, target.port), seconds), daemon=True
        ).start()
        yield spec.model_copy(update={"endpoint": f"http://127.0.0.1:{listener.getsockname()[1]}"})


def _relay_all(listener: socket.socket, target: tuple[str | None, int | None], seconds: float) -> None:
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return  # the block has ended
        far = socket.create_connection(target)
        threading.Thread(target=_pass_on, args=(near, far, 0.0), daemon=True).start()
        threading.Thread(target=_pass_on, args=(far, near, seconds), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Until one of the two goes away; then both are closed."""
    with source, target:
        try:
            while data := source.recv(65536):
                time.sleep(seconds)
                target.sendall(data)
        except OSError:
            return
