"""Containers for real: processes in their own namespaces, started and stopped as the agent does it."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster import processes
from devcluster.agent import images, logs
from devcluster.agent.launch import PodFolder, request
from devcluster.agent.process import Exit, Launcher, Process, StartError, read_exit
from tests.devcluster.running import processes_of

WAIT = 60.0
"""Seconds for what takes a moment, on a machine that has other things to do."""
IMAGE = images.find({"x": {"entrypoint": ["/bin/sh", "-c"], "env": {"PATH": "/usr/bin:/bin"}}}, "x", "t")


class Running:
    """One started container of a test."""

    def __init__(self, process: Process, exits: queue.SimpleQueue[Exit], folder: PodFolder) -> None:
        self.process = process
        self._exits = exits
        self._folder = folder

    def wait(self) -> Exit:
        return self._exits.get(timeout=WAIT)

    @property
    def output(self) -> str:
        return b"".join(logs.read(self._folder.log("c", 0), logs.LogOptions(), lambda: False)).decode()

    @property
    def message(self) -> str:
        return self._folder.termination("c", 0).read_text()

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + WAIT
        while text not in (self.output if self._folder.log("c", 0).exists() else ""):
            assert time.monotonic() < until, f"{text!r} did not appear in {self.output!r}"
            time.sleep(0.02)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    launcher = Launcher()

    def start(
        script: str,
        mounts: tuple = (),
        security: dict | None = None,
        ip: str = "127.9.9.10",
        uid: str = "u",
        state: Path = tmp_path / "state",
        **variables: str,
    ) -> Running:
        folder = PodFolder(state / "pods" / uid)
        folder.etc("hosts").parent.mkdir(parents=True, exist_ok=True)
        folder.etc("hosts").write_text("127.0.0.1 localhost\n127.9.9.9 peer-0\n")
        folder.etc("hostname").write_text("pod-a\n")
        folder.etc("resolv.conf").write_text("")
        pod = {"metadata": {"name": "pod-a", "namespace": "n", "uid": "u"}, "spec": {}}
        container = {"name": "c", "args": [script], "securityContext": security or {}}
        exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        wanted = request(
            pod,
            container,
            IMAGE,
            {**IMAGE.env, **variables},
            mounts=mounts,
            folder=folder,
            number=0,
            hidden=state,
            pod_ip=ip,
        )
        return Running(launcher.start(wanted, exits.put), exits, folder)

    yield start
    launcher.close()


def test_output_exit_code_and_termination_message_come_back(start: Start, tmp_path: Path) -> None:
    ran = start(
        "echo out; echo err >&2; printf '%s' \"$SAID\" > /dev/termination-log; exit 42", SAID="the end"
    )
    ended = ran.wait()
    assert (ended.code, ended.signal, ended.out_of_memory, ended.lost) == (42, 0, False, False)
    assert sorted(ran.output.split()) == ["err", "out"]
    assert ran.message == "the end"
    assert 0 < ended.finished_at - ended.started_at < WAIT
    assert read_exit(tmp_path / "state/pods/u/containers/c/0/exit.json") == ended


def test_a_container_sees_its_own_user_host_name_hosts_and_processes(start: Start) -> None:
    ran = start(
        "id -u; id -g; hostname; cat /etc/hostname; getent hosts peer-0; echo $$$$; ls /tmp /run | wc -w"
    )
    assert ran.wait().code == 0
    assert ran.output.split() == ["10001", "0", "pod-a", "pod-a", "127.9.9.9", "peer-0", "1", "2"]


def test_the_hosts_file_changes_under_a_running_container(start: Start, tmp_path: Path) -> None:
    ran = start("echo up; until getent hosts late-0; do sleep 0.05; done")
    ran.wait_for("up")
    with (tmp_path / "state/pods/u/etc/hosts").open("a") as file:
        file.write("127.8.8.8 late-0\n")
    assert ran.wait().code == 0
    assert "127.8.8.8" in ran.output


def test_volumes_appear_where_the_host_has_no_such_path(start: Start, tmp_path: Path) -> None:
    config, data = tmp_path / "config", tmp_path / "data"
    config.mkdir()
    data.mkdir()
    (config / "run.yaml").write_text("x: 1\n")
    mounts = (
        {"source": str(config), "target": "/etc/mochi", "read_only": True},
        {"source": str(config), "target": "/var/run/secrets/kubernetes.io/serviceaccount", "read_only": True},
        {"source": str(config / "run.yaml"), "target": "/usr/share/mochi/deep/run.yaml", "read_only": True},
        {"source": str(data), "target": "/data", "read_only": False},
        {"source": str(config), "target": "/data/inner", "read_only": True},
    )
    script = (
        "cat /etc/mochi/run.yaml /run/secrets/kubernetes.io/serviceaccount/run.yaml /usr/share/mochi/deep/run.yaml "
        "/data/inner/run.yaml && test -e /etc/passwd && test -e /usr/bin/env && echo new > /data/file; "
        "touch /etc/mochi/y /data/inner/y"
    )
    ran = start(script, mounts)
    assert ran.wait().code == 1
    assert ran.output.count("x: 1") == 4
    assert ran.output.count("Read-only file system") == 2
    assert (data / "file").read_text() == "new\n"


def test_nothing_of_the_host_can_be_written(start: Start, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "file").write_text("host")
    name = f"mochi-probe-{os.getpid()}-{time.time_ns()}"
    places = " ".join(f"{folder}/{name}" for folder in (probe, Path.home(), "/usr", "/var/tmp", "/sys"))
    ran = start(
        f"touch {places}; echo x > {probe}/file; echo x > /proc/sys/kernel/domainname; "
        "cat /dev/vda /dev/sda /dev/mem | wc -c; grep CapEff /proc/self/status"
    )
    assert ran.wait().code == 0
    assert (probe / "file").read_text() == "host"
    leaked = [place for place in places.split() if Path(place).exists()]
    for place in leaked:
        Path(place).unlink()
    assert leaked == []
    assert ran.output.splitlines()[-1].split() == ["CapEff:", "0000000000000000"]


def test_the_state_of_other_pods_is_hidden(start: Start) -> None:
    with tempfile.TemporaryDirectory(
        dir="/var/tmp"
    ) as state:  # not in /tmp, which is the container's own anyway
        (Path(state) / "secret").write_text("hunter2")
        ran = start(f"cat {state}/secret", state=Path(state))
        assert ran.wait().code == 1
        assert "hunter2" not in ran.output


def test_a_read_only_root_leaves_only_volumes_and_shared_memory(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mounts = ({"source": str(data), "target": "/cache", "read_only": False},)
    name = f"probe-{os.getpid()}-{time.time_ns()}"  # the host's own entries of / are shown read-only
    places = [f"{folder}/{name}" for folder in ("", "/tmp", "/etc", "/run", "/cache", "/dev/shm")]
    script = f"for place in {' '.join(places)}; do touch $place && echo $place; done"
    writable = start(script, mounts, uid="writable")
    assert (writable.wait().code, writable.output.split()) == (0, places)
    read_only = start(script, mounts, uid="read-only", security={"readOnlyRootFilesystem": True})
    assert read_only.wait().code == 0
    refused = [line for line in read_only.output.splitlines() if "Read-only file system" in line]
    assert len(refused) == len(places) - 2
    assert [line for line in read_only.output.splitlines() if line not in refused] == places[-2:]


def test_a_user_given_by_the_pod_is_the_one_inside(start: Start) -> None:
    ran = start("id -u; id -g", security={"runAsUser": 0, "runAsGroup": 5})
    assert ran.wait().code == 0
    assert ran.output.split() == ["0", "5"]


def test_sigterm_reaches_the_main_process_which_may_end_in_its_own_way(start: Start) -> None:
    ran = start("trap 'echo saving; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    ran.wait_for("up")
    ran.process.terminate()
    assert (ran.wait().code, ran.output) == (7, "up\nsaving\n")


def test_sigkill_ends_what_ignores_sigterm_and_all_it_started(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mounts = ({"source": str(data), "target": "/data", "read_only": False},)
    loop = "while :; do date +%s%N > /data/alive; sleep 0.02; done"
    ran = start(f"trap '' TERM; setsid sh -c '{loop}' & echo up; wait; sleep 60", mounts)
    ran.wait_for("up")
    ran.process.terminate()
    time.sleep(0.2)
    ran.process.kill()
    ended = ran.wait()
    assert (ended.code, ended.signal) == (137, 9)
    stopped = (data / "alive").read_text()
    time.sleep(0.2)
    assert (data / "alive").read_text() == stopped


def test_an_out_of_memory_kill_is_told_apart(start: Start) -> None:
    ran = start("sleep 60")
    ran.process.kill_out_of_memory()
    ended = ran.wait()
    assert (ended.code, ended.out_of_memory) == (137, True)


def test_a_program_that_does_not_exist_fails_to_start(start: Start, tmp_path: Path) -> None:
    launcher = Launcher()
    folder = PodFolder(tmp_path / "state" / "pods" / "u")
    for name in ("hosts", "hostname", "resolv.conf"):
        folder.etc(name).parent.mkdir(parents=True, exist_ok=True)
        folder.etc(name).touch()
    pod = {"metadata": {"name": "p"}, "spec": {}}
    wanted = request(
        pod,
        {"name": "c", "command": ["/nope"]},
        IMAGE,
        {},
        mounts=(),
        folder=folder,
        number=0,
        hidden=tmp_path / "h",
        pod_ip="127.9.9.10",
    )
    with pytest.raises(StartError, match="No such file or directory: '/nope'"):
        launcher.start(wanted, lambda _: None)
    launcher.close()


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.9.9.77", 0))
        return str(taken.getsockname()[1])


NETWORK = """
import asyncio, os, socket, threading, urllib.request
def serve(family, host, **options):
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, value in options.items():
        server.setsockopt(socket.IPPROTO_IPV6, getattr(socket, option), value)
    server.bind((host, int(os.environ["PORT"])))
    server.listen()
    return server
def check(server, family, host):
    client = socket.socket(family)
    client.settimeout(5)
    client.connect((host, int(os.environ["PORT"])))
    other = server.accept()[0]
    print(client.getpeername()[0], other.getsockname()[0])
    server.close()
server = serve(socket.AF_INET, "0.0.0.0")
check(server, socket.AF_INET, "127.0.0.1")
server = serve(socket.AF_INET6, "::", IPV6_V6ONLY=0)
thread = threading.Thread(target=check, args=(server, socket.AF_INET, "127.0.0.1"))
thread.start()
thread.join()
server = serve(socket.AF_INET6, "::1", IPV6_V6ONLY=0)
check(server, socket.AF_INET6, "::1")
async def main():
    server = await asyncio.start_server(lambda r, w: None, None, int(os.environ["PORT"]))
    print("asyncio", sorted(s.getsockname()[0] for s in server.sockets))
asyncio.run(main())
"""


def test_all_addresses_and_localhost_mean_the_pods_own_address(start: Start) -> None:
    port = free_port()
    other = start("exec python3 -u -m http.server $PORT", ip="127.9.9.78", uid="other", PORT=port)
    other.wait_for("Serving HTTP")
    ran = start('exec python3 -c "$CODE"', ip="127.9.9.77", CODE=NETWORK, PORT=port)
    assert ran.wait().code == 0, ran.output
    assert ran.output.splitlines() == [
        "127.9.9.77 127.9.9.77",
        "127.9.9.77 ::ffff:127.9.9.77",
        "::ffff:127.9.9.77 ::ffff:127.9.9.77",
        "asyncio ['127.9.9.77', '::1']",
    ]


KILLED_AGENT = """
import sys, time
from pathlib import Path
from devcluster.agent.launch import PodFolder, request
from devcluster.agent.images import find
from devcluster.agent.process import Launcher
state, data = Path(sys.argv[1]), sys.argv[2]
folder = PodFolder(state)
for name in ("hosts", "hostname", "resolv.conf"):
    folder.etc(name).parent.mkdir(parents=True, exist_ok=True)
    folder.etc(name).touch()
image = find({"x": {"entrypoint": ["/bin/sh", "-c"], "env": {"PATH": "/usr/bin:/bin"}}}, "x", "t")
loop = f": from {data}; while :; do date +%s%N > /data/alive; sleep 0.02; done"
mounts = [{"source": data, "target": "/data", "read_only": False}]
pod = {"metadata": {"name": "p"}, "spec": {}}
Launcher().start(
    request(pod, {"name": "c", "args": [loop]}, image, dict(image.env), mounts=mounts, folder=folder, number=0, hidden=state, pod_ip="127.9.9.10"),
    print,
)
print("started", flush=True)
time.sleep(60)
"""


def test_containers_end_with_an_agent_that_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-c", KILLED_AGENT, str(tmp_path / "state"), str(data)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "started\n"
        assert processes.wait_until((data / "alive").exists, WAIT)
        assert processes_of(f"from {data}") != []
        agent.send_signal(signal.SIGKILL)
        agent.wait(WAIT)
    assert processes.wait_until(lambda: processes_of(f"from {data}") == [], WAIT)
