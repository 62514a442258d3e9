"""The parent process of one container: makes its namespaces, starts it, writes its log, and reports how it ended.

Started by `process.Launcher`, one a container: reads one `Request` as JSON from standard input and writes events as
JSON lines to standard output: `{"event": "started", "at"}`, then `{"event": "exited", ...}`; or `{"event": "failed"}`.
Signals: SIGTERM is passed on to the container, SIGUSR1 kills it, SIGUSR2 kills it as the out-of-memory killer would.
Dies with the agent, and the container dies with it (parent-death signals; the container is pid 1 of a pid namespace,
so nothing it started survives it).
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypedDict

from devcluster import signals
from devcluster.agent import linux, network, root

MAX_LINE = 16384
"""Longest log record in bytes; longer lines are written in parts, as container runtimes do."""
START_ERROR_CODE = 128
_READ_SIZE = 65536


class Request(TypedDict):
    """Everything needed to start one container."""

    parent: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    uid: int
    gid: int
    no_new_privileges: bool
    log: str
    result: str
    """File that will hold the exit event, for an agent that was restarted."""
    pod_ip: str
    """The address that stands for all of the pod's; see `network`."""
    shared_ports: list[int]
    root: root.RootSpec


@dataclass(slots=True)
class LogStream:
    """Cuts one of the container's output streams into timestamped records (`<RFC 3339> <stream> <F|P> <text>`)."""

    name: str
    rest: bytes = b""

    def records(self, chunk: bytes, now: datetime) -> bytes:
        """Records completed by `chunk`; the remainder waits for its line end."""
        stamp = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond:06d}000Z {self.name}".encode()
        out: list[bytes] = []
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for text in lines:
            *parts, last = [text[i : i + MAX_LINE] for i in range(0, len(text) or 1, MAX_LINE)]
            out += [b"%s P %s\n" % (stamp, part) for part in parts]
            out.append(b"%s F %s\n" % (stamp, last))
        while len(self.rest) >= MAX_LINE:
            out.append(b"%s P %s\n" % (stamp, self.rest[:MAX_LINE]))
            self.rest = self.rest[MAX_LINE:]
        return b"".join(out)

    def last_record(self, now: datetime) -> bytes:
        """What is left at the end of the stream."""
        return self.records(b"\n", now) if self.rest else b""


@dataclass(slots=True)
class Container:
    """The running container as its shim sees it."""

    pid: int
    out_of_memory: bool = False
    streams: dict[int, LogStream] = field(default_factory=dict)
    supervisor: network.Supervisor | None = None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Pass a request of the agent on to the container."""
        self.out_of_memory = self.out_of_memory or signum == signal.SIGUSR2
        os.kill(self.pid, signal.SIGTERM if signum == signal.SIGTERM else signal.SIGKILL)

    def attend(self, path: str) -> None:
        """Copy output to the log and answer network calls until the container and all it started are gone."""
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with selectors.DefaultSelector() as selector:
            for fd in (*self.streams, os.pidfd_open(self.pid)):
                selector.register(fd, selectors.EVENT_READ, self._copy if fd in self.streams else self._ended)
            if self.supervisor is not None:
                selector.register(self.supervisor.listener, selectors.EVENT_READ, self._answer)
            while any(key.data != self._answer for key in selector.get_map().values()):
                for key, _ in selector.select():
                    if not key.data(key.fd, log):
                        selector.unregister(key.fd)
        os.close(log)

    def _copy(self, fd: int, log: int) -> bool:
        chunk, now = os.read(fd, _READ_SIZE), datetime.now(UTC)
        os.write(log, self.streams[fd].records(chunk, now) if chunk else self.streams[fd].last_record(now))
        return bool(chunk)

    def _answer(self, _fd: int, _log: int) -> bool:
        return self.supervisor is not None and self.supervisor.serve_one()

    def _ended(self, _fd: int, _log: int) -> bool:
        return False

    def wait(self, started_at: float) -> dict[str, Any]:
        """The exit event."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return {
            "event": "exited",
            "code": code if code >= 0 else 128 - code,
            "signal": max(-code, 0),
            "out_of_memory": self.out_of_memory,
            "started_at": started_at,
            "finished_at": time.time(),
        }


def _become_container(request: Request, output: tuple[int, int], parent: socket.socket) -> None:
    linux.die_with_parent(0, signal.SIGKILL)
    os.setsid()
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
    root.enter(request["root"])
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(output[0], 1)
    os.dup2(output[1], 2)
    os.umask(0o022)
    os.chdir(request["cwd"])
    listener = network.install()
    if listener is not None:
        socket.send_fds(parent, [b"network"], [listener])
    linux.drop_capabilities(no_new_privileges=request["no_new_privileges"])
    linux.die_with_parent(0, signal.SIGKILL)
    signals.default_all()
    os.execvpe(request["argv"][0], request["argv"], request["env"])  # noqa: S606 - the container's own program


def _fork_container(request: Request, output: tuple[int, int], failure: int, parent: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_container(request, output, parent)
    except BaseException as error:  # the last place in this process: report it, whatever it is
        os.write(failure, f"{type(error).__name__}: {error}".encode()[:4096])
    os._exit(START_ERROR_CODE)


def run(request: Request) -> dict[str, Any]:
    """Run the container to its end; returns the last event."""
    linux.die_with_parent(request["parent"], signal.SIGKILL)
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    linux.map_user(request["uid"], request["gid"])
    linux.die_with_parent(request["parent"], signal.SIGKILL)
    signals = {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    (out_read, out_write), (err_read, err_write), (fail_read, fail_write) = os.pipe(), os.pipe(), os.pipe()
    started_at = time.time()
    ours, theirs = socket.socketpair()
    pid = _fork_container(request, (out_write, err_write), fail_write, theirs)
    for fd in (out_write, err_write, fail_write):
        os.close(fd)
    theirs.close()
    container = Container(pid, streams={out_read: LogStream("stdout"), err_read: LogStream("stderr")})
    for signum in signals:
        signal.signal(signum, container.handle)
    with os.fdopen(fail_read, "rb") as failure:
        problem = failure.read().decode(errors="replace")
    if problem:
        os.waitpid(pid, 0)
        return {"event": "failed", "message": problem}
    container.supervisor = _supervisor(ours, request)
    emit({"event": "started", "at": started_at, "pid": pid})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    container.attend(request["log"])
    return container.wait(started_at)


def _supervisor(container: socket.socket, request: Request) -> network.Supervisor | None:
    """What answers the container's network calls, if it could be made to ask."""
    with container:
        _, descriptors, _, _ = socket.recv_fds(container, 16, 1)
    if not descriptors:
        return None
    return network.Supervisor(descriptors[0], request["pod_ip"], frozenset(request["shared_ports"]))


def emit(event: dict[str, Any]) -> None:
    """Tell the agent."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point of the process."""
    request: Request = json.load(sys.stdin)
    try:
        event = run(request)
    except OSError as error:
        event = {"event": "failed", "message": str(error)}
    part = Path(request["result"] + ".part")
    part.write_text(json.dumps(event))
    part.replace(request["result"])
    emit(event)


if __name__ == "__main__":
    main()
