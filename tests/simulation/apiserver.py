"""The API server as one operator process sees it: `Cluster` over the store, with delays, refusals and lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from mochi_api.status import FineTuneStatus
from mochi_operator.cluster import (
    EVENTS,
    FINETUNES,
    AlreadyExistsError,
    Kind,
    Manifest,
    NotServedError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from tests.simulation.kernel import Kernel
from tests.simulation.store import Object, Store

Answer = TypeVar("Answer")

CALL_SECONDS = 10.0
"""As long the operator's own client waits for an answer."""


@dataclass
class Manners:
    """How the API server treats the operator at the moment."""

    error_rate: float = 0.0
    """Share of calls that get 429, 500 or no answer."""
    slow_rate: float = 0.0
    """Share of calls that take seconds."""
    absent: set[str] = field(default_factory=set)
    """Kinds that are not installed."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Refusal of creates by kind: `quota`, `webhook` or `policy`."""


Guard = Callable[[str, str, str, Object | None], None]
"""Called with actor, verb, address and the object that a write of an operator is about to touch."""


class Server:
    """What all operator processes share."""

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self.kernel = kernel
        self.store = store
        self.manners = Manners()
        self.calls: list[tuple[str, str]] = []
        """Operator process and verb of every call."""
        self.refused: dict[str, tuple[float, float, str]] = {}
        """By the name of the object: first and last time of its refusal, and a word of it."""
        self.on_create: Callable[[str, Object], None] = lambda actor, item: None
        self.on_delete: Callable[[str, Object], None] = lambda actor, item: None
        self.on_status: Callable[[str, Object, Manifest], None] = lambda actor, item, status: None
        self.log_of: Callable[[str, str, str, int], str | None] = lambda namespace, pod, container, seconds: (
            None
        )


class Client:
    """`Cluster` for one operator process; each call takes time, and a crash may fall on either side of its effect."""

    def __init__(self, server: Server, actor: str, crash: Callable[[], None]) -> None:
        self._server = server
        self._kernel = server.kernel
        self._store = server.store
        self._actor = actor
        self._crash = crash
        self.crash_in: int | None = None
        """Number of calls until the process dies in the middle of one."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        await self._arrive("get", kind, name)
        found = (
            None if kind.name in self._server.manners.absent else self._store.get(kind.name, namespace, name)
        )
        return await self._answered(found)

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        await self._arrive("list", kind, namespace or "*")
        self._served(kind)
        found = [
            item
            for item in self._store.all(kind.name)
            if namespace in (None, item["metadata"]["namespace"])
            and _has_labels(item, labels or {})
            and all(_field(item, path) == text for path, text in (fields or {}).items())
        ]
        return await self._answered(found)

    async def create(self, kind: Kind, namespace: str, manifest: Manifest) -> None:
        name = manifest["metadata"]["name"]
        await self._arrive("create", kind, name)
        self._served(kind)
        if self._store.get(kind.name, namespace, name) is not None:
            raise AlreadyExistsError(f'{kind.plural} "{name}" already exists (HTTP 409)')
        self._refused(kind, name)
        self._server.refused.pop(name, None)
        self._server.on_create(self._actor, manifest)
        self._store.add(manifest)
        await self._answered(None)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        await self._arrive("delete", kind, name)
        found = self._store.get(kind.name, namespace, name)
        if found is not None and found["metadata"]["uid"] == uid:
            self._server.on_delete(self._actor, found)
            self._store.delete(found)
        await self._answered(None)

    async def write_status(
        self, namespace: str, name: str, *, resource_version: str, status: Manifest
    ) -> None:
        await self._arrive("status", FINETUNES, name)
        found = self._store.get(FINETUNES.name, namespace, name)
        if found is None:
            raise NotServedError(f'mochifinetunes "{name}" not found (HTTP 404)')
        if found["metadata"]["resourceVersion"] != resource_version:
            raise StaleError(f'mochifinetunes "{name}": the object has been modified (HTTP 409)')
        try:
            FineTuneStatus.model_validate(status)
        except ValidationError as error:
            self._kernel.violate("the CRD takes each status", str(error))
            raise RefusedError(f"status is invalid: {error}", cause="invalid", code=422) from error
        self._server.on_status(self._actor, found, status)
        self._store.edit(found, status=status)
        await self._answered(None)

    async def record(self, namespace: str, event: Manifest) -> None:
        name = event["metadata"]["name"]
        await self._arrive("event", EVENTS, event["reason"])
        found = self._store.get(EVENTS.name, namespace, name)
        if found is None:
            self._store.add(event)
        else:
            self._store.edit(found, lastTimestamp=event["lastTimestamp"])
        await self._answered(None)

    async def log(
        self, namespace: str, pod: str, *, container: str, since_seconds: int, limit_bytes: int
    ) -> str | None:
        """The last lines of a container's log, or None when there is no such pod, container or node."""
        self._server.calls.append((self._actor, "log"))
        await asyncio.sleep(self._kernel.between(0.005, 0.05))
        if self._kernel.chance(self._server.manners.error_rate):
            raise UnavailableError("the log cannot be had: no answer of the kubelet (HTTP 500)")
        return self._server.log_of(namespace, pod, container, since_seconds)

    async def _arrive(self, verb: str, kind: Kind, name: str) -> None:
        """The way to the server: it takes a moment, and the request may be lost or turned away on it."""
        kernel, manners = self._kernel, self._server.manners
        self._server.calls.append((self._actor, verb))
        kernel.note(self._actor, f"{verb} {kind.name} {name}")
        slow = manners.slow_rate and kernel.chance(manners.slow_rate)
        await asyncio.sleep(kernel.between(0.5, 6.0) if slow else kernel.between(0.002, 0.03))
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in == 0 and kernel.chance(0.5):
                await self._die("before")
        if manners.error_rate and kernel.chance(manners.error_rate / 2):
            await self._fail("before")

    async def _answered(self, answer: Answer) -> Answer:
        """The way back: the effect is there, the answer may not be."""
        kernel, manners = self._kernel, self._server.manners
        if self.crash_in is not None and self.crash_in <= 0:
            await self._die("after")
        if manners.error_rate and kernel.chance(manners.error_rate / 2):
            await self._fail("after")
        return answer

    async def _die(self, side: str) -> None:
        self.crash_in = None
        self._kernel.note(self._actor, f"dies {side} the effect")
        self._crash()
        await asyncio.Event().wait()

    async def _fail(self, side: str) -> None:
        kernel = self._kernel
        words = ["no answer within 10 s"]
        if side == "before":
            words += ["too many requests (HTTP 429)", "internal error (HTTP 500)", "gone (HTTP 410)"]
        word = kernel.rng.choice(words)
        kernel.note("server", f"{word} {side} the effect")
        if word.startswith("no answer"):
            await asyncio.sleep(CALL_SECONDS)
        raise UnavailableError(word)

    def _served(self, kind: Kind) -> None:
        if kind.name in self._server.manners.absent:
            raise NotServedError("the server could not find the requested resource (HTTP 404)")

    def _refused(self, kind: Kind, name: str) -> None:
        how = self._server.manners.refusals.get(kind.name)
        if how is not None:
            now = self._kernel.seconds
            first, last, word = self._server.refused.get(name, (now, now, how))
            again = now - last < 45 and word == how
            self._server.refused[name] = (first if again else now, now, how)
        match how:
            case "quota":
                raise RefusedError(
                    f'{kind.plural} "{name}" is forbidden: exceeded quota: objects, requested: count/{kind.plural}=1',
                    cause="quota",
                    code=403,
                )
            case "policy":
                raise RefusedError(
                    f'{kind.plural} "{name}" is forbidden: the policy says no', cause="admission", code=403
                )
            case "webhook":
                raise UnavailableError(
                    'Internal error occurred: failed calling webhook "validate.example": connection refused (HTTP 500)'
                )


def _has_labels(item: Object, labels: Mapping[str, str]) -> bool:
    own = item["metadata"].get("labels") or {}
    return all(own.get(key) == text for key, text in labels.items())


def _field(item: Object, path: str) -> object:
    value: object = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
