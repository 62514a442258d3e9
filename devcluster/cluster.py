"""Start, find and end clusters."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from devcluster import addresses, binaries, parts, processes, state
from devcluster.agent.node import LOST_FILE
from devcluster.bringup import answers
from devcluster.state import S3

START_LIMIT = 240.0
"""Seconds from the first part to the last; a start takes about 15."""
RESTART_LIMIT = 90.0
"""Seconds one part has to be back."""
API_SERVER = "kube-apiserver"
STOP_GRACE = 40.0
"""Seconds the supervisor has to end everything after SIGTERM."""
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])

Say = Callable[[str], None]
_launched: dict[Path, subprocess.Popen[str]] = {}
"""Supervisors that are children of this process, to be waited for when they end."""


class ClusterError(Exception):
    """A cluster did not start, or is not there; the message says what happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What a cluster should be like."""

    name: str = "default"
    dir: Path | None = None
    """State folder; None: below $XDG_STATE_HOME, by name."""

    images: Path | None = None
    """JSON file: image reference -> {"entrypoint": [...], "env": {...}}; None: no image can be run."""

    nodes: int = 1
    """How many nodes, up to 6; pods of one reach those of another by name as well."""

    capacity: str = ""
    """name=quantity,... that each node reports over what the machine has, such as nvidia.com/gpu=8."""

    owner: int | None = None
    """Process id; the cluster ends when that process does. None: it runs until `down`."""

    node_loss_seconds: int = 20
    """Silence of the node agent until its node counts as lost."""

    eviction_seconds: int = 15
    """How long pods stay bound to a lost node."""

    node_labels: str = ""
    """name=value,... of each node, over the usual ones, such as nvidia.com/gpu.product=NVIDIA-L4."""

    terminated_pods: int = 12500
    """How many pods that have ended are kept; Kubernetes looks every 20 s and collects the oldest."""

    @property
    def folder(self) -> Path:
        """The state folder. Raises `StateError` for a bad name."""
        return (self.dir or state.default_dir(self.name)).absolute()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A running cluster."""

    dir: Path
    s3: S3
    kubectl: Path

    @property
    def kubeconfig(self) -> Path:
        """Administrator's access."""
        return self.dir / "kubeconfig"

    def node_lost(self, number: int = 0) -> Path:
        """While this file exists the node is cut off: it hears nothing of the API server, and the other way round."""
        return self.dir / parts.agent_name(number) / LOST_FILE

    def restart(self, part: str) -> None:
        """Kill a part and start it again; returns when it runs, the API server when it answers.

        Raises `ClusterError` for a part that there is not, or one that does not come back.
        """
        found = state.read(self.dir)
        known = {item.name: item.address for item in found.parts} if found else {}
        if part not in known:
            raise ClusterError(f"{self.dir} has no part {part!r}; there are {', '.join(known) or 'none'}")
        request = self.dir / state.RESTARTS / part
        request.touch()

        def back() -> bool:
            return not request.exists() and (part != API_SERVER or answers(f"https://{known[part]}/readyz"))

        if not processes.wait_until(back, RESTART_LIMIT):
            raise ClusterError(
                f"{part} is not back after {RESTART_LIMIT:.0f} s; see {self.dir}/logs/{part}.log"
            )

    @property
    def helm(self) -> Path:
        """The helm program; built at the first use. Raises `BinaryError`."""
        return binaries.ensure("helm", _discard)

    def env(self) -> dict[str, str]:
        """This process's environment, with access to the cluster and its object store, and kubectl on the path.

        What kubectl and helm keep goes to the cluster's folder, not to the home directory.
        """
        kept = self.dir / "clients"
        return {
            **os.environ,
            "KUBECACHEDIR": str(kept / "kubectl"),
            **{
                f"HELM_{kind}_HOME": str(kept / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")
            },
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": os.pathsep.join([str(self.kubectl.parent), os.environ.get("PATH", "")]),
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
            "AWS_ENDPOINT_URL_S3": self.s3.endpoint,
            "AWS_REGION": self.s3.region,
        }


def _discard(_: str) -> None:
    """Take a line and say nothing."""


def find(folder: Path) -> Cluster | None:
    """The running cluster of a folder; None when there is none. Raises `StateError`."""
    found = state.read(folder)
    if found is None or not found.alive or not found.ready or found.s3 is None:
        return None
    return Cluster(dir=folder, s3=found.s3, kubectl=Path(found.binaries["kubectl"]))


def up(config: Config, say: Say = _discard) -> Cluster:
    """Start a cluster, or return the one that runs. Raises `ClusterError`, `StateError` or `BinaryError`.

    When this is interrupted, nothing stays.
    """
    folder = config.folder
    programs = binaries.ensure_all(say)
    with state.lock(folder):
        running_one = find(folder)
        if running_one is not None:
            _refuse_another_owner(config, folder)
            say(f"cluster {config.name} runs already")
            return running_one
        if _clear(folder):
            say(f"removed what a crash had left in {folder}")
        began = time.monotonic()
        try:
            _write_config(config, folder, programs)
            _launch(folder, say)
        except BaseException:
            _clear(folder)
            raise
        started = find(folder)
        if started is None:
            raise ClusterError(f"cluster {config.name} ended right after its start")
        say(f"cluster {config.name} is up after {time.monotonic() - began:.1f} s")
        return started


def _refuse_another_owner(config: Config, folder: Path) -> None:
    """Raise `ClusterError` when the running cluster belongs to a process that still runs: it will end it."""
    owner = json.loads((folder / "config.json").read_text())["owner"]
    if owner is not None and owner["pid"] != os.getpid() and processes.Identity(**owner).alive():
        raise ClusterError(
            f"cluster {config.name} belongs to process {owner['pid']}, which still runs: wait for its end, or stop it"
        )


def down(folder: Path) -> bool:
    """End the cluster and remove its folder; False when there was none. Raises `StateError` or `ClusterError`."""
    if not folder.exists():
        return False
    with state.lock(folder):
        return _clear(folder)


@contextlib.contextmanager
def running(config: Config, say: Say = _discard) -> Iterator[Cluster]:
    """A cluster for as long as the context lasts, and no longer than this process, whatever kills it."""
    owned = Config(**{**{key: getattr(config, key) for key in Config.__slots__}, "owner": os.getpid()})
    cluster = up(owned, say)
    try:
        yield cluster
    finally:
        down(owned.folder)


def _clear(folder: Path) -> bool:
    """End what runs from `folder` and delete it; whether there was anything. The lock must be held."""
    found = state.read(folder)
    if found is None:
        return False
    if found.alive:
        _stop(found.supervisor)
    if folder in _launched:
        _launched.pop(folder).wait(STOP_GRACE)
    left = [part.process for part in found.parts]
    if not processes.end(left, grace=0):
        alive = ", ".join(str(item.pid) for item in left if item.alive())
        raise ClusterError(f"processes {alive} of {folder} do not end: they may belong to another user")
    state.remove(folder)
    return True


def _stop(supervisor: processes.Identity) -> None:
    """The supervisor ends its parts; if it does not, killing it makes the kernel kill them."""
    below = processes.descendants(supervisor.pid)
    if not processes.end([supervisor], grace=STOP_GRACE):
        raise ClusterError(f"process {supervisor.pid} does not end: it may belong to another user")
    processes.end(below, grace=0)


def _write_config(config: Config, folder: Path, programs: dict[str, Path]) -> None:
    if not 1 <= config.nodes <= addresses.MOST_NODES:
        raise ClusterError(f"a cluster has 1 to {addresses.MOST_NODES} nodes, not {config.nodes}")
    images = config.images.read_text() if config.images else "{}"
    launcher = processes.identity(os.getpid())
    owner = processes.identity(config.owner) if config.owner is not None else None
    if launcher is None or (config.owner is not None and owner is None):
        raise ClusterError(f"there is no process {config.owner} to own the cluster")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    nobody = processes.Identity(0, 0)
    state.write(folder, state.State(name=config.name, supervisor=nobody))  # from here on the folder is ours
    document = {
        "name": config.name,
        "launcher": asdict(launcher),
        "owner": asdict(owner) if owner else None,
        "binaries": {name: str(path.absolute()) for name, path in programs.items()},
        "nodes": config.nodes,
        "capacity": config.capacity,
        "node_loss_seconds": config.node_loss_seconds,
        "eviction_seconds": config.eviction_seconds,
        "node_labels": config.node_labels,
        "terminated_pods": config.terminated_pods,
    }
    (folder / "config.json").write_text(json.dumps(document, indent=1))
    (folder / "images.json").write_text(images)
    (folder / "logs").mkdir(exist_ok=True)


def _launch(folder: Path, say: Say) -> None:
    """Run the supervisor until it reports; end it when that fails or is interrupted."""
    with (folder / "logs" / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "devcluster.supervisor", str(folder)],
            cwd="/",
            env={**os.environ, "PYTHONPATH": _PACKAGE_ROOT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            text=True,
        )
    try:
        _follow(supervisor, say)
    except BaseException:
        supervisor.send_signal(signal.SIGTERM)
        try:
            supervisor.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        raise
    finally:
        if supervisor.stdout is not None:
            supervisor.stdout.close()
    _launched[folder] = supervisor


def _follow(supervisor: subprocess.Popen[str], say: Say) -> None:
    """Pass progress on until the cluster is ready. Raises `ClusterError`."""
    for event in _events(supervisor.stdout):
        if "progress" in event:
            say(event["progress"])
        if "failed" in event:
            raise ClusterError(event["failed"])
        if "ready" in event:
            return
    raise ClusterError("the supervisor was killed while the cluster started")


def _events(stream: IO[str] | None) -> Iterator[dict[str, str]]:
    for line in stream or ():
        yield json.loads(line)
