"""The edge to rank 0: `GET /progress` by pod address."""

from __future__ import annotations

from typing import Protocol

import aiohttp
from pydantic import ValidationError

from mochi_api.progress import PORT, Progress

LIMIT_SECONDS = 2.0
LIMIT_BYTES = 64 * 1024


class ProgressSource(Protocol):
    """Where progress of a training comes from."""

    async def read(self, address: str) -> Progress | None:
        """What the pod at `address` says, or None when it does not answer in time or not in this form."""
        ...


class HttpProgress:
    """Progress by HTTP from the port the trainer serves."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def read(self, address: str) -> Progress | None:
        """What rank 0 answers; an answer that is late, long or garbled counts as none."""
        host = f"[{address}]" if ":" in address else address
        limit = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
        try:
            async with self._session.get(f"http://{host}:{PORT}/progress", timeout=limit) as response:
                if response.status != 200:
                    return None
                return Progress.model_validate_json(await response.content.read(LIMIT_BYTES))
        except (TimeoutError, aiohttp.ClientError, OSError, ValidationError):
            return None
