"""What an answer of the API server means: HTTP code and `metav1.Status` become one of our errors. No I/O.

The API server says nowhere in a field which of its admission plugins refused an object, so the cause is read from the
sentence, whose fixed parts are quoted below from Kubernetes 1.34 and have been the same for years. A sentence that is
not known counts by its code.
"""

from __future__ import annotations

import json
import re

from mochi_operator.cluster import (
    AlreadyExistsError,
    Cause,
    ClusterError,
    NotServedError,
    RefusedError,
    StaleError,
    UnavailableError,
)

_DENIED = re.compile(
    r"admission webhook \".+?\" denied the request|"
    r"ValidatingAdmissionPolicy '.+?'(?: with binding '.+?')? denied request"
)
"""A webhook or a policy answers with any code it likes: 400 and 403 are usual, a policy's default is 422."""

_QUOTA = re.compile(
    r"(?:is forbidden: |^)(?:exceeded quota: |insufficient quota |status unknown for quota: )"
)
"""Not `failed quota: ... must specify`: that object will not fit when others end."""

_RIGHTS = re.compile(
    r"User \".*?\" cannot \w+ (?:resource|path) |cannot set blockOwnerDeletion|cannot set an ownerRef"
)
"""RBAC, and the plugin that asks for rights on owners."""


class ExpiredError(UnavailableError):
    """The state that a list was read from is compacted away: the list must start over."""


def cause(code: int, message: str) -> Cause:
    """Who has to act after a refusal with this code and sentence."""
    if _DENIED.search(message):
        return "admission"
    if code != 403:
        return "invalid"
    if _QUOTA.search(message):
        return "quota"
    if "is forbidden: " in message and not _RIGHTS.search(message):
        return "admission"
    return "forbidden"


def error_of(code: int, body: str, call: str, retry_after: float | None = None) -> ClusterError:
    """The error that an answer with a code of 400 or more stands for; `call` is method and path, for the log."""
    reason, message = _status(body)
    words = message or body[:200].strip() or f"HTTP {code}"
    said = f"{words} ({call}, HTTP {code})"
    if code in (400, 403, 413, 422) or _DENIED.search(message):
        return RefusedError(words, cause=cause(code, words), code=code, reason=reason)
    match code:
        case 404:
            return NotServedError(said)
        case 409 if reason == "AlreadyExists":
            return AlreadyExistsError(said)
        case 409:
            return StaleError(said)
        case 410:
            return ExpiredError(said, words=words)
        case _:
            return UnavailableError(said, words=words, retry_after=retry_after)


def _status(body: str) -> tuple[str, str]:
    """Reason and message of a `metav1.Status`; empty where the body is none."""
    try:
        status = json.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(status, dict):
        return "", ""
    return str(status.get("reason") or ""), str(status.get("message") or "")
