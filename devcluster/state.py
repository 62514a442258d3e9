"""The folder of a cluster: names, paths, the state file, and the lock that lets one command at a time work on it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from devcluster.processes import Identity

MARKER = "devcluster.json"
RESTARTS = "restart"
"""Folder of requests to the supervisor: a file named after a part, which goes when the part runs again."""
LOCK_LIMIT = 300.0
"""Seconds a command waits for another one on the same cluster."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


class StateError(Exception):
    """The folder can not be used; the message says why."""


def default_dir(name: str) -> Path:
    """The folder of the cluster `name`. Raises `StateError` for a name that is no label.

    It shares no folder of ours with other clusters: one that ends would have to take it away while another makes it.
    """
    if _NAME.fullmatch(name) is None:
        raise StateError(f"cluster name must be 1 to 40 of a-z, 0-9 and -, got {name!r}")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / f"mochi-devcluster-{name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One started program."""

    name: str
    process: Identity
    address: str
    since: float
    """Unix time of the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class S3:
    """The cluster's object store."""

    endpoint: str
    """For programs of this machine."""

    pod_endpoint: str
    """For pods."""

    access_key: str
    secret_key: str
    region: str = "us-east-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What the marker file says."""

    name: str
    supervisor: Identity
    since: float = 0.0
    """Unix time of the supervisor's start."""

    parts: tuple[Part, ...] = ()
    s3: S3 | None = None
    binaries: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False

    @property
    def alive(self) -> bool:
        """Whether the cluster's supervisor runs."""
        return self.supervisor.alive()


def read(folder: Path) -> State | None:
    """The state in `folder`; None when it holds none (yet). Raises `StateError` for a folder that is not a cluster's."""
    try:
        raw = json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        if folder.is_dir() and any(folder.iterdir()):
            raise StateError(f"{folder} holds other files and no {MARKER}: not a cluster's folder") from None
        return None
    except NotADirectoryError:
        raise StateError(f"{folder} is not a folder") from None
    except ValueError:
        raise StateError(
            f"{folder / MARKER} is damaged: see which processes run from {folder}, then delete it"
        ) from None
    return _parse(raw)


def _parse(raw: Mapping[str, Any]) -> State:
    parts = (Part(**{**item, "process": Identity(**item["process"])}) for item in raw["parts"])
    return State(
        name=raw["name"],
        supervisor=Identity(**raw["supervisor"]),
        since=raw["since"],
        parts=tuple(parts),
        s3=S3(**raw["s3"]) if raw["s3"] else None,
        binaries=raw["binaries"],
        ready=raw["ready"],
    )


def write(folder: Path, state: State) -> None:
    """Write the marker file: readers see the old state or the new one."""
    temporary = folder / f".{MARKER}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(state), file, indent=1)
    temporary.replace(folder / MARKER)


def remove(folder: Path) -> None:
    """Delete the folder, the marker last, so that an interrupted removal can be repeated."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, onerror=_make_writable)
        elif entry.name != MARKER:
            entry.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()


def _make_writable(function: Callable[[str], Any], path: str, _: object) -> None:
    """A pod may have left a folder that its owner can not change."""
    with contextlib.suppress(FileNotFoundError):
        Path(path).parent.chmod(0o700)
        if not Path(path).is_symlink():
            Path(path).chmod(0o700)
        if function in (os.rmdir, os.unlink):
            function(path)
        else:
            shutil.rmtree(path)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the cluster's lock. Raises `StateError`.

    It is a name in the kernel's table of abstract sockets: no file, and it ends with the process that holds it.
    """
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()
    deadline = time.monotonic() + LOCK_LIMIT
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        while not _claimed(held, f"\0mochi-devcluster/lock/{name}"):
            if time.monotonic() > deadline:
                raise StateError(f"another command has been at work on {folder} for {LOCK_LIMIT:.0f} s")
            time.sleep(0.1)
        yield


def _claimed(held: socket.socket, name: str) -> bool:
    try:
        held.bind(name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    return True
