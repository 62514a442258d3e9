"""Turns a container of a pod spec into the request its shim runs: image, environment, user, mounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.agent.env import ConfigError, expand
from devcluster.agent.images import Image
from devcluster.agent.node import GPU
from devcluster.agent.root import Mount
from devcluster.agent.shim import Request

ROOT_GROUP = 0


@dataclass(frozen=True, slots=True)
class PodFolder:
    """Where one pod's files lie on the host."""

    path: Path

    @property
    def volumes(self) -> Path:
        """One folder a volume."""
        return self.path / "volumes"

    @property
    def record(self) -> Path:
        """What a restarted agent must know."""
        return self.path / "record.json"

    def etc(self, name: str) -> Path:
        """A file of the pod's own in /etc."""
        return self.path / "etc" / name

    def attempt(self, container: str, number: int) -> Path:
        """Files of one attempt of a container."""
        return self.path / "containers" / container / str(number)

    def log(self, container: str, number: int) -> Path:
        """The log of one attempt."""
        return self.attempt(container, number) / "log"

    def termination(self, container: str, number: int) -> Path:
        """The termination message file of one attempt."""
        return self.attempt(container, number) / "termination-log"

    def result(self, container: str, number: int) -> Path:
        """How one attempt ended."""
        return self.attempt(container, number) / "exit.json"


def hostname(pod: Mapping[str, Any]) -> str:
    """The host name the pod's containers see."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def service_env(host: str, port: int) -> dict[str, str]:
    """The variables in-cluster clients find the API server by."""
    return {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
    }


def image_env(image: Image, pod: Mapping[str, Any]) -> dict[str, str]:
    """What the runtime and the image set before the pod's own variables."""
    return {"HOSTNAME": hostname(pod), "HOME": "/", **image.env}


def gpu_count(container: Mapping[str, Any]) -> int:
    """GPUs the container is given."""
    return int(container.get("resources", {}).get("limits", {}).get(GPU, 0))


def argv(container: Mapping[str, Any], image: Image, variables: Mapping[str, str]) -> list[str]:
    """The program and its arguments. Raises `ConfigError` when there is none."""
    command: Sequence[str] = container.get("command") or image.entrypoint
    words = [expand(word, variables) for word in (*command, *container.get("args", ()))]
    if not words:
        raise ConfigError(
            f'no command specified: neither container "{container["name"]}" nor image {image.reference} has one'
        )
    return words


def identity(pod: Mapping[str, Any], container: Mapping[str, Any], image: Image) -> tuple[int, int]:
    """User and group ids inside the container. Raises `ConfigError` for root where runAsNonRoot forbids it."""
    context = {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}
    uid = int(context.get("runAsUser", image.user))
    if uid == 0 and context.get("runAsNonRoot"):
        raise ConfigError(
            f'container has runAsNonRoot and image will run as root (pod: "{pod["metadata"]["name"]}", '
            f"container: {container['name']})"
        )
    return uid, int(context.get("runAsGroup", ROOT_GROUP))


def request(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    image: Image,
    variables: Mapping[str, str],
    *,
    mounts: Sequence[Mount],
    folder: PodFolder,
    number: int,
    hidden: Path,
    pod_ip: str,
    shared_ports: Sequence[int] = (),
) -> Request:
    """The request for attempt `number`; creates the files it names."""
    attempt = folder.attempt(container["name"], number)
    for name in ("root", "tmp"):
        (attempt / name).mkdir(parents=True, exist_ok=True)
    (attempt / "tmp").chmod(0o1777)
    termination = folder.termination(container["name"], number)
    termination.touch()
    termination.chmod(0o666)
    uid, gid = identity(pod, container, image)
    security = container.get("securityContext", {})
    visible: list[Mount] = [{"source": path, "target": path, "read_only": True} for path in image.visible]
    return {
        "parent": 0,
        "argv": argv(container, image, variables),
        "env": dict(variables),
        "cwd": container.get("workingDir") or image.cwd,
        "uid": uid,
        "gid": gid,
        "no_new_privileges": security.get("allowPrivilegeEscalation") is False,
        "log": str(folder.log(container["name"], number)),
        "result": str(folder.result(container["name"], number)),
        "pod_ip": pod_ip,
        "shared_ports": list(shared_ports),
        "root": {
            "at": str(attempt / "root"),
            "hidden": str(hidden),
            "hostname": hostname(pod),
            "tmp": str(attempt / "tmp"),
            "etc": {name: str(folder.etc(name)) for name in ("hosts", "hostname", "resolv.conf")},
            "termination_log": str(termination),
            "termination_path": container.get("terminationMessagePath", "/dev/termination-log"),
            "mounts": [*visible, *mounts],
            "read_only": bool(security.get("readOnlyRootFilesystem")),
        },
    }
