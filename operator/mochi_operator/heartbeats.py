"""Signs of life by HTTP: `GET /heartbeat`, or `/progress` of an image of an earlier version."""

from __future__ import annotations

import time

import aiohttp
from pydantic_core import from_json

from mochi_api import heartbeat
from mochi_api.heartbeat import NOT_TOLD, Heartbeat
from mochi_api.progress import PORT, Progress
from mochi_api.reading import lenient

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 64 * 1024
LONGEST_AGE = 1e9
_FINE = 200
_MISSING = 404


class HttpHeartbeats:
    """`HeartbeatSource` on the port that the trainer serves. It goes where the address says and follows nobody."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, address: str) -> Heartbeat | None:
        """What rank 0 answers; an answer that is late, long, garbled or elsewhere counts as none."""
        host = f"[{address}]" if ":" in address else address
        code, body = await self._get(f"http://{host}:{PORT}{heartbeat.PATH}")
        if code != _MISSING:
            return heartbeat.parse(body)
        _, body = await self._get(f"http://{host}:{PORT}/progress")
        return of_progress(body, time.time())

    async def _get(self, url: str) -> tuple[int, bytes]:
        """Status and body; an empty body stands for whatever went wrong."""
        limit = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
        try:
            async with self._session.get(url, timeout=limit, allow_redirects=False) as response:
                return response.status, await _bounded(response) if response.status == _FINE else b""
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return 0, b""


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body, or nothing when it is longer than any sign of life."""
    body = b""
    async for chunk in response.content.iter_chunked(8192):
        body += chunk
        if len(body) > LIMIT_BYTES:
            return b""
    return body


def of_progress(body: bytes, now: float) -> Heartbeat | None:
    """A sign of life from the page of an earlier version, which tells a time by the clock of its own machine."""
    try:
        progress = lenient(Progress, from_json(body))
    except ValueError:
        return None
    if progress is None:
        return None
    stepping = progress.last_step_time is not None and progress.step < progress.total_steps
    age = None if progress.last_step_time is None else _age(now, progress.last_step_time)
    saved = None if progress.checkpoint_time is None else _age(now, progress.checkpoint_time)
    raw = {
        "attempt": 0,
        "activity": "training" if stepping else NOT_TOLD,
        "quietSeconds": age or 0.0,
        "done": progress.step,
        "total": progress.total_steps,
        "loss": progress.loss,
        "gradNorm": progress.grad_norm,
        "stepSeconds": progress.step_seconds,
        "stepAgeSeconds": age,
        "checkpointStep": progress.checkpoint_step,
        "checkpointUri": progress.checkpoint_uri,
        "checkpointAgeSeconds": saved,
        "nonFinite": progress.non_finite,
    }
    return lenient(Heartbeat, raw)


def _age(now: float, moment: float) -> float:
    """Seconds since `moment`, which may be anything."""
    return min(max(0.0, now - moment), LONGEST_AGE)
