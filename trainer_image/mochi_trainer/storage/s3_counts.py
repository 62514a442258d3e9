"""How many requests this process has made to S3, by operation and result, whichever client made them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks

OK, REFUSED, FAILED = "ok", "refused", "failed"
_EXPECTED = {404, 412, 416}
"""Answers to questions: whether something is there, or goes on."""
_CLIENTS, _SERVERS = 400, 500
_counts: Counter[tuple[str, str]] = Counter()
_lock = threading.Lock()


def counts() -> Mapping[tuple[str, str], int]:
    """Requests so far by operation (`GetObject`) and result: `ok`, `refused` (4xx) or `failed` (5xx, or no answer).

    What is tried again by the client itself counts once, by its last try.
    """
    with _lock:
        return dict(_counts)


def counted(events: BaseEventHooks) -> None:
    """Count the requests of a client from now on."""
    events.register("after-call.s3", _answered)
    events.register("after-call-error.s3", _lost)


def _answered(*, http_response: Any, model: Any, **_: Any) -> None:
    code = http_response.status_code
    result = OK if code < _CLIENTS or code in _EXPECTED else REFUSED if code < _SERVERS else FAILED
    _count(model.name, result)


def _lost(*, model: Any = None, **kwargs: Any) -> None:
    _count(model.name if model is not None else str(kwargs.get("event_name", "")).rpartition(".")[2], FAILED)


def _count(operation: str, result: str) -> None:
    with _lock:
        _counts[operation, result] += 1
