"""A Kubernetes API in memory: the second implementation of `Cluster`, with the manners the operator relies on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

from mochi_operator.cluster import (
    EVENTS,
    FINETUNES,
    KINDS,
    AlreadyExistsError,
    ClusterError,
    Kind,
    Manifest,
    NotServedError,
    StaleError,
    UnavailableError,
)
from mochi_operator.timestamps import render

START = datetime(2026, 1, 1, tzinfo=UTC)
OUTAGE = 'failed calling webhook "validator.kubeflow.org": connection refused'
Json = TypeVar("Json")
Address = tuple[str, str, str]


class KilledError(BaseException):
    """The operator was killed; nothing of its own may catch this."""


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = START
        self.passed = 0.0

    def __call__(self) -> datetime:
        return self.now

    def steady(self) -> float:
        """Seconds that have really passed, whatever the clock was set to."""
        return self.passed

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.passed += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.now += timedelta(seconds=seconds)


class FakeCluster:
    """Objects with uid, resourceVersion and generation; 409 for taken names and stale writes; owners and selectors."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.objects: dict[Address, Manifest] = {}
        self.calls: set[tuple[str, str, str]] = set()
        """Verb, group and resource of every call."""
        self.writes: list[tuple[str, str, str]] = []
        """Verb, kind and name of every call that changed something."""
        self.logs: dict[str, str] = {}
        """By pod."""
        self.absent: set[str] = set()
        """Kinds that are not installed."""
        self.refuse: Callable[[Manifest], ClusterError | None] = lambda manifest: None
        self.refuse_delete: Callable[[Kind, str], ClusterError | None] = lambda kind, name: None
        self.outage: Callable[[str, Kind, str], Literal["", "before", "after"]] = lambda verb, kind, name: ""
        """Whether a call, by verb, kind and name, finds no answer, and whether it takes effect all the same."""
        self.collect_seconds = 0.0
        """How long the garbage collector takes; with 0 what an object owns goes with it."""
        self.log_error: ClusterError | None = None
        """What reading a log raises."""
        self.kill_after: int | None = None
        """Number of writes after which the caller is killed; the last of them still takes effect. Between reads there is
        nothing to lose."""
        self._version = 0

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        self._count("get", kind)
        self._answer("get", kind, name)
        found = None if kind.name in self.absent else self.objects.get((kind.name, namespace, name))
        return _copied(found)

    async def list(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        self._count("list", kind)
        self._answer("list", kind, namespace or "")
        if kind.name in self.absent:
            raise NotServedError("the server could not find the requested resource")
        return [
            _copied(item)
            for (name, place, _), item in self.objects.items()
            if name == kind.name and namespace in (None, place) and _has(item, labels or {}, fields or {})
        ]

    async def create(self, kind: Kind, namespace: str, manifest: Manifest) -> None:
        self._count("create", kind)
        if kind.name in self.absent:
            raise NotServedError("the server could not find the requested resource")
        error = self.refuse(manifest)
        if error is not None:
            raise error
        address = (kind.name, namespace, manifest["metadata"]["name"])
        away = self._answer("create", kind, address[2])
        if address in self.objects:
            raise AlreadyExistsError(f"{kind.plural} {address[2]!r} already exists")
        self.put(manifest)
        self._no_answer(away)
        self.writes.append(("create", kind.name, address[2]))
        self._kill()

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        self._count("delete", kind)
        error = self.refuse_delete(kind, name)
        if error is not None:
            raise error
        away = self._answer("delete", kind, name)
        found = self.objects.get((kind.name, namespace, name))
        if found is not None and found["metadata"]["uid"] == uid:
            self.remove(kind, namespace, name)
            self.writes.append(("delete", kind.name, name))
        self._no_answer(away)
        self._kill()

    async def write_status(
        self, namespace: str, name: str, *, resource_version: str, status: Manifest
    ) -> None:
        self.calls.add(("patch", FINETUNES.group, f"{FINETUNES.plural}/status"))
        found = self.objects.get((FINETUNES.name, namespace, name))
        if found is None:
            raise NotServedError("not found")
        if found["metadata"]["resourceVersion"] != resource_version:
            raise StaleError("the object has been modified")
        away = self._answer("patch", FINETUNES, name)
        found["status"] = _copied(status)
        self._bump(found)
        self._no_answer(away)
        self.writes.append(("patch", FINETUNES.name, name))
        self._kill()

    async def log(
        self, namespace: str, pod: str, *, container: str, since_seconds: int, limit_bytes: int
    ) -> str | None:
        self.calls.add(("get", "", "pods/log"))
        if self.log_error is not None:
            raise self.log_error
        return self.logs.get(pod)

    async def record(self, namespace: str, event: Manifest) -> None:
        self.calls |= {("create", EVENTS.group, EVENTS.plural), ("patch", EVENTS.group, EVENTS.plural)}
        address = (EVENTS.name, namespace, event["metadata"]["name"])
        if address in self.objects:
            self.objects[address]["lastTimestamp"] = event["lastTimestamp"]
        else:
            self.put(event)
        self.writes.append(("record", EVENTS.name, event["reason"]))
        self._kill()

    # What the world does, as opposed to the operator.

    def put(self, manifest: Manifest) -> Manifest:
        """Store an object as the API server would; the stored one is returned, to be edited in place."""
        stored = _copied(manifest)
        meta = stored["metadata"]
        self._version += 1
        meta.setdefault("uid", f"uid-{self._version}")
        meta["generation"] = 1
        meta["creationTimestamp"] = render(self.clock.now)
        self._bump(stored)
        self.objects[stored["kind"], meta["namespace"], meta["name"]] = stored
        return stored

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """Delete an object and, unless the garbage collector takes its time, everything it owns."""
        gone = self.objects.pop((kind.name, namespace, name), None)
        if gone is None or self.collect_seconds > 0:
            return
        for found, place, child in list(self.objects):
            owners = self.objects[found, place, child]["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                self.remove(KINDS[found], place, child)

    def all(self, kind: str) -> list[Manifest]:
        """The stored objects of a kind, oldest first."""
        return [item for (name, _, _), item in self.objects.items() if name == kind]

    def one(self, kind: str, name: str, namespace: str = "videos") -> Manifest:
        """The stored object of this name."""
        return self.objects[kind, namespace, name]

    def touch(self, manifest: Manifest) -> None:
        """The object was edited in place."""
        self._bump(manifest)

    def names(self, kind: str) -> list[str]:
        """Names of the stored objects of a kind."""
        return [item["metadata"]["name"] for item in self.all(kind)]

    def reasons(self) -> list[str]:
        """Reasons of the Events, oldest first."""
        return [item["reason"] for item in self.all(EVENTS.name)]

    def _bump(self, manifest: Manifest) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)

    def _count(self, verb: str, kind: Kind) -> None:
        self.calls.add((verb, kind.group, kind.plural))

    def _answer(self, verb: str, kind: Kind, name: str) -> str:
        away = self.outage(verb, kind, name)
        if away == "before":
            raise UnavailableError(f"{verb} {kind.name} {name}: no answer", words=OUTAGE)
        return away

    @staticmethod
    def _no_answer(away: str) -> None:
        if away == "after":
            raise UnavailableError("no answer, though it was done", words=OUTAGE)

    def _kill(self) -> None:
        if self.kill_after is None:
            return
        self.kill_after -= 1
        if self.kill_after <= 0:
            self.kill_after = None
            raise KilledError


class AwayCluster(FakeCluster):
    """An API server that does not answer."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        raise UnavailableError("no answer")


def _copied(value: Json) -> Json:
    """As it would come over the wire: several times faster than copy.deepcopy, and JSON or nothing."""
    return json.loads(json.dumps(value))


def _has(item: Manifest, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    own = item["metadata"].get("labels") or {}
    return all(own.get(key) == text for key, text in labels.items()) and all(
        _field(item, path) == text for path, text in fields.items()
    )


def _field(item: Manifest, path: str) -> object:
    value: object = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
