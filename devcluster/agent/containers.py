"""What the agent knows of a container: its state over attempts, and how that is kept on disk. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

LOST = "ContainerStatusUnknown"
LOST_CODE = 137


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not running and not finished; `reason` as the kubelet words it."""

    reason: str = "ContainerCreating"
    message: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Its program runs since `started_at` (seconds since the epoch)."""

    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """Ended with `code` (128 + signal when killed)."""

    code: int
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: float = 0.0
    finished_at: float = 0.0


State = Waiting | Running | Terminated
_KINDS: Mapping[str, type[Waiting] | type[Running] | type[Terminated]] = {
    "waiting": Waiting,
    "running": Running,
    "terminated": Terminated,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a pod."""

    name: str
    init: bool = False
    """Declared among the init containers."""
    sidecar: bool = False
    """An init container that runs beside the main ones (restartPolicy Always)."""
    state: State = Waiting()
    attempt: int = -1
    """Number of the current or last attempt from 0; -1 before the first."""
    last: Terminated | None = None
    """How the attempt before the current one ended."""
    ready: bool = False
    started: bool = False
    """Its startup probe has passed, or it has none."""
    unhealthy: bool = False
    """Its liveness or startup probe has failed for good."""
    signalled_at: float | None = None
    """When this attempt got SIGTERM from the agent; kept when it has ended."""
    retry_at: float = 0.0
    """Not to be started before this time."""
    back_off: float = 0.0
    """Seconds to wait after the next failure."""

    @property
    def main(self) -> bool:
        """Declared among the containers of the pod, which decide its phase."""
        return not self.init

    @property
    def running(self) -> Running | None:
        """The running state, if it is one."""
        return self.state if isinstance(self.state, Running) else None

    @property
    def terminated(self) -> Terminated | None:
        """The final state of this attempt, if it has ended."""
        return self.state if isinstance(self.state, Terminated) else None

    @property
    def succeeded(self) -> bool:
        """Ended with code 0."""
        return self.terminated is not None and self.terminated.code == 0


def declared(pod: Mapping[str, Any]) -> list[Container]:
    """The containers of a pod before anything ran; init containers first."""
    spec = pod["spec"]
    init = [
        Container(name=item["name"], init=True, sidecar=item.get("restartPolicy") == "Always")
        for item in spec.get("initContainers", ())
    ]
    waiting = Waiting("PodInitializing") if init else Waiting()
    return [*init, *(Container(name=item["name"], state=waiting) for item in spec["containers"])]


def to_json(container: Container) -> dict[str, Any]:
    """For the record on disk."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(container.state, cls))
    return {**asdict(container), "state": {"kind": kind, **asdict(container.state)}}


def from_json(raw: Mapping[str, Any]) -> Container:
    """Inverse of `to_json`."""
    state = dict(raw["state"])
    cls = _KINDS[state.pop("kind")]
    last = Terminated(**raw["last"]) if raw["last"] else None
    return Container(**{**raw, "state": cls(**state), "last": last})


def lost(container: Container, now: float, finished: Terminated | None = None) -> Container:
    """A container that an earlier agent ran: it ended with that agent, as `finished` if its end was recorded."""
    if container.running is None:
        return container
    unknown = Terminated(
        code=LOST_CODE,
        reason=LOST,
        message="the container ended with an earlier run of the node agent",
        started_at=container.running.started_at,
        finished_at=now,
    )
    return replace(container, state=finished or unknown, ready=False, signalled_at=None)


def from_status(pod: Mapping[str, Any], now: float) -> list[Container]:
    """The containers of a pod whose record is missing: what the API server believes to run is lost."""
    status = pod.get("status", {})
    known = {
        item["name"]: item
        for key in ("initContainerStatuses", "containerStatuses")
        for item in status.get(key, ())
    }
    return [_believed(item, known.get(item.name, {}), now) for item in declared(pod)]


def _believed(container: Container, status: Mapping[str, Any], now: float) -> Container:
    state = status.get("state", {})
    attempt = int(status.get("restartCount", 0))
    if "running" in state:
        return lost(replace(container, attempt=attempt, state=Running(now)), now)
    if "terminated" in state:
        ended = state["terminated"]
        final = Terminated(
            code=int(ended.get("exitCode", LOST_CODE)),
            reason=ended.get("reason", ""),
            message=ended.get("message", ""),
            started_at=now,
            finished_at=now,
        )
        return replace(container, attempt=attempt, state=final)
    return container


def initialised(containers: Iterable[Container]) -> bool:
    """Whether a main container was ever started: from then on no init container holds anything up."""
    return any(item.main and item.attempt >= 0 for item in containers)


def by_name(containers: Iterable[Container]) -> dict[str, Container]:
    """Index of containers."""
    return {item.name: item for item in containers}
