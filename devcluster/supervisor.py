"""The process that owns a cluster: starts every part, watches its own owner, and ends everything in the end.

Run by `devcluster.cluster` as `python -m devcluster.supervisor FOLDER`; it reads FOLDER/config.json and reports on
standard output, one JSON object a line: {"progress": text}, then {"ready": true} or {"failed": text}.

Nothing outlives it: every part gets SIGKILL when it dies, and processes that lose their parent become its children.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from devcluster import addresses, processes, signals, state
from devcluster.agent import linux
from devcluster.bringup import Bringup, PartError
from devcluster.parts import Layout, Program

WATCH_SECONDS = 0.3
_PR_SET_CHILD_SUBREAPER = 36
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])
_DROPPED = ("http_proxy", "https_proxy", "all_proxy", "kubeconfig", "aws_profile")


class StopRequested(BaseException):
    """A signal, or the end of the owner: tear down. Not an `Exception`, so that no handler of errors keeps it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What `up` hands over."""

    name: str
    launcher: processes.Identity
    """Must live until the cluster is ready."""

    owner: processes.Identity | None
    """Must live as long as the cluster; None: until `down`."""

    binaries: Mapping[str, str]
    nodes: int
    capacity: str
    node_labels: str
    node_loss_seconds: int
    eviction_seconds: int
    terminated_pods: int

    @staticmethod
    def read(path: Path) -> Config:
        """The file written by `up`."""
        raw = json.loads(path.read_text())
        identities = {
            key: processes.Identity(**raw[key]) if raw[key] else None for key in ("launcher", "owner")
        }
        return Config(**{**raw, **identities})


class Supervisor:
    """Children and the state file. Everything here runs in the main thread, which parent-death signals need."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self._children: dict[str, tuple[subprocess.Popen[bytes], Program]] = {}
        own = processes.identity(os.getpid())
        if own is None:
            raise OSError("/proc does not show this process: is it mounted?")
        self.state = state.State(
            name=config.name, supervisor=own, since=time.time(), binaries=config.binaries
        )

    def save(self, **changes: Any) -> None:
        """Change the state and write it."""
        self.state = replace(self.state, **changes)
        state.write(self.folder, self.state)

    def start(self, program: Program) -> None:
        """Start a part in a session of its own, its output in logs/<name>.log."""
        kept = {key: value for key, value in os.environ.items() if key.lower() not in _DROPPED}
        environment = {**kept, "PYTHONPATH": _PACKAGE_ROOT, **program.env}
        with self.log(program.name).open("ab") as log:
            child = subprocess.Popen(
                program.command,
                cwd=program.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(linux.die_with_parent, os.getpid(), signal.SIGKILL),
            )
        self._children[program.name] = (child, program)
        started = processes.identity(child.pid) or processes.Identity(child.pid, 0)
        part = state.Part(name=program.name, process=started, address=program.address, since=time.time())
        parts = {item.name: item for item in self.state.parts} | {part.name: part}
        self.save(parts=tuple(parts.values()))

    def restart(self, name: str) -> None:
        """Kill a part and start it again."""
        child, program = self._children[name]
        child.kill()
        child.wait()
        self.start(program)

    def _obey(self) -> None:
        """Carry out requests to restart a part."""
        for request in (self.folder / state.RESTARTS).iterdir():
            if request.name in self._children:
                self.restart(request.name)
            request.unlink()

    def log(self, name: str) -> Path:
        """The log of a part."""
        return self.folder / "logs" / f"{name}.log"

    def check(self) -> None:
        """Raise `PartError` when a part has ended, `StopRequested` when nobody waits for the cluster any more."""
        if not self.config.launcher.alive():
            raise StopRequested
        for name, (child, _) in self._children.items():
            if child.poll() is not None:
                raise PartError(name, f"ended with code {child.returncode}")

    def watch(self) -> None:
        """Until a signal or the owner's end. A part that ends stays ended, until it is asked for: `status` shows it."""
        while self.config.owner is None or self.config.owner.alive():
            self._obey()
            for child, _ in self._children.values():
                child.poll()
            _reap_strangers({child.pid for child, _ in self._children.values()})
            time.sleep(WATCH_SECONDS)

    def tear_down(self) -> None:
        """End every part, newest first, then whatever they left, then the folder."""
        for child, program in reversed(self._children.values()):
            found = processes.identity(child.pid)
            if found is not None:
                processes.end([found], grace=program.grace)
            child.wait()
        processes.end(processes.descendants(os.getpid()), grace=0)
        state.remove(self.folder)


def _reap_strangers(known: set[int]) -> None:
    """Collect orphans that came to us; our own children are left to `subprocess`."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (ended := os.waitid(os.P_ALL, 0, options)) is not None and ended.si_pid not in known:
        os.waitpid(ended.si_pid, os.WNOHANG)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise StopRequested


def _report(**event: object) -> None:
    """One line to the launcher. Raises `StopRequested` when it is gone."""
    try:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise StopRequested from None


def _bring_up(supervisor: Supervisor, block: str, port: int) -> None:
    config = supervisor.config
    layout = Layout(
        folder=supervisor.folder,
        binaries=config.binaries,
        addresses=addresses.allocate(block, port, _say),
        nodes=config.nodes,
        capacity=config.capacity,
        node_loss_seconds=config.node_loss_seconds,
        eviction_seconds=config.eviction_seconds,
        node_labels=config.node_labels,
        terminated_pods=config.terminated_pods,
    )
    bringup = Bringup(layout, start=supervisor.start, check=supervisor.check, say=_say)
    bringup.run()
    supervisor.save(s3=bringup.s3, ready=True)


def run(folder: Path) -> None:
    """Own the cluster in `folder` from its start to its end."""
    config = Config.read(folder / "config.json")
    supervisor = Supervisor(folder, config)
    supervisor.save()
    try:
        with addresses.reserved_block() as block, addresses.reserved_port() as port:
            _bring_up(supervisor, block, port)
            supervisor.check()
            _report(ready=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            supervisor.watch()
    except StopRequested:
        pass
    except (PartError, addresses.AddressError, OSError) as error:
        _fail(_explain(error, supervisor))
    except Exception:  # a fault of ours: its log goes with the folder, so the launcher gets it
        _fail(traceback.format_exc())
    finally:
        for signum in signals.STOP:
            signal.signal(signum, signal.SIG_IGN)
        supervisor.tear_down()


def _say(text: str) -> None:
    _report(progress=text)


def _fail(text: str) -> None:
    try:
        _report(failed=text)
    except StopRequested:
        sys.stderr.write(f"{text}\n")


def _explain(error: Exception, supervisor: Supervisor) -> str:
    if not isinstance(error, PartError):
        return str(error)
    log = supervisor.log(error.part)
    lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
    return (
        "\n  ".join([f"{error.part} {error}; the end of its log:", *lines])
        if lines
        else f"{error.part} {error}"
    )


def main(arguments: list[str]) -> int:
    """Entry point."""
    folder = Path(arguments[0])
    signals.handle(dict.fromkeys(signals.STOP, _stop))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    run(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
