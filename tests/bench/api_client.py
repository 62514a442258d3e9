"""What `kubernetes.aio` costs over bare aiohttp: `python tests/bench/api_client.py`.

Memory and start of a process that imports a client and makes one call; CPU time of a call; a list of 500 pods as the
mappings it comes in and as the package's models. The server is a small one on this machine. CPU time, not wall time.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

REPEATS = 5
CALLS = 500
POD = {
    "metadata": {
        "name": "dissolve-train-a1-worker-0", "namespace": "videos", "uid": "4f2c", "resourceVersion": "7",
        "labels": {f"mochi.finetune.dev/label-{n}": "x" for n in range(6)},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u", "controller": True}],
    },
    "spec": {
        "containers": [{
            "name": "trainer", "image": "trainer:1", "args": ["train"], "resources": {"limits": {"cpu": "8", "memory": "64Gi"}},
            "env": [{"name": f"NAME_{n}", "value": "x"} for n in range(12)],
            "volumeMounts": [{"name": f"v{n}", "mountPath": f"/mnt/{n}"} for n in range(5)],
        }],
        "volumes": [{"name": f"v{n}", "emptyDir": {}} for n in range(5)],
    },
    "status": {
        "phase": "Running", "podIP": "10.0.0.7", "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": t, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"} for t in ("Ready", "Initialized", "PodScheduled", "ContainersReady")],
        "containerStatuses": [{"name": "trainer", "ready": True, "restartCount": 0, "image": "trainer:1", "imageID": "sha256:1", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    },
}  # fmt: skip
LIST = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [POD] * 500})

TAIL = """
import asyncio, gc, resource, sys, time
def report(seconds):
    gc.collect()
    status = open("/proc/self/status").read()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    print(resident, time.process_time(), seconds)
async def measured(call):
    await call()
    start = time.process_time()
    for _ in range(calls):
        await call()
    report((time.process_time() - start) / max(1, calls))
"""
BARE = """
import aiohttp, json
async def main():
    async with aiohttp.ClientSession() as session:
        async def call():
            async with session.get(f"{server}/api/v1/namespaces/videos/pods/p") as answer:
                return json.loads(await answer.read())
        await measured(call)
asyncio.run(main())
"""
PACKAGE = """
from kubernetes.aio.client import ApiClient, Configuration
from mochi_operator.apiserver import ApiServer
from mochi_operator.cluster import PODS
class One:
    async def client(self):
        return api
async def main():
    global api
    settings = {"trust_env": False}
    async with ApiClient(Configuration(host=server, client_session_kwargs=settings)) as api:
        await measured(lambda: ApiServer(One()).get(PODS, "videos", "p"))
asyncio.run(main())
"""
OPERATOR = """
import pathlib, tempfile
from mochi_operator.apiserver import ApiServer
from mochi_operator.cluster import PODS
from mochi_operator.connection import Connector, Login
async def main():
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "config")
        config.write_text(f'{{"clusters": [{{"name": "k", "cluster": {{"server": "{server}"}}}}], "users": [],'
            ' "contexts": [{"name": "c", "context": {"cluster": "k"}}], "current-context": "c"}')
        connector = Connector(Login({"KUBECONFIG": str(config)}))
        await measured(lambda: ApiServer(connector).get(PODS, "videos", "p"))
        await connector.close()
asyncio.run(main())
"""
TYPED = """
from kubernetes.aio.client import ApiClient, Configuration, CoreV1Api
async def main():
    settings = {"trust_env": False}
    async with ApiClient(Configuration(host=server, client_session_kwargs=settings)) as api:
        await measured(lambda: CoreV1Api(api).read_namespaced_pod("p", "videos"))
asyncio.run(main())
"""
ABSENT = "import sys; sys.modules['kubernetes'] = None\n"
"""Kopf imports the package where it is installed."""
OTHERS = "import kopf, prometheus_client, pydantic, yaml, mochi_api.spec, mochi_api.status\n"
"""What an operator has loaded anyway."""
CLIENTS = {
    "aiohttp": BARE,
    "kubernetes.aio, mappings": PACKAGE,
    "kubernetes.aio, models": TYPED,
    "operator's other packages, aiohttp": ABSENT + OTHERS + BARE,
    "operator's other packages, kubernetes.aio": OTHERS + OPERATOR,
}
MAPPINGS = """
import json
def decode(): return json.loads(text)["items"]
"""
MODELS = """
import json
from kubernetes.aio.client import V1PodList
def decode(): return V1PodList.from_dict(json.loads(text)).items
"""
DECODE = """
import sys, time
text = sys.stdin.read()
decode()
start = time.process_time()
kept = decode()
seconds = time.process_time() - start
def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) / 1024
before = resident()
more = [decode() for _ in range(4)]
print((resident() - before) / 4, 0, seconds)
"""


async def _answer(request: web.Request) -> web.Response:
    return web.json_response(POD)


@contextmanager
def _server() -> Iterator[str]:
    """Address of a server in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def start() -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_get("/{path:.*}", _answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    runner, address = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _run(statements: str, text: str = "") -> tuple[float, float, float]:
    """Three numbers that a process prints: MiB, CPU seconds since its start, CPU seconds of one turn."""
    done = subprocess.run(
        [sys.executable, "-c", statements],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    memory, started, turn = map(float, done.stdout.split())
    return memory, started, turn


def _line(name: str, statements: list[str], text: str = "") -> str:
    """A row of medians, after one process that fills the page cache."""
    _run(statements[0], text)
    columns = [
        [statistics.median(column) for column in zip(*(_run(one, text) for _ in range(REPEATS)), strict=True)]
        for one in statements
    ]
    memory, started = columns[0][:2]
    return f"{name:<44} {memory:8.1f} MiB {started:7.2f} s {1000 * columns[-1][2]:9.2f} ms\n"


def main() -> None:
    """Print both tables."""
    write = sys.stdout.write
    write(
        f"medians of {REPEATS} processes after one: resident, CPU time until one call is made, of one more call\n"
    )
    with _server() as address:
        for name, client in CLIENTS.items():
            both = [f"server, calls = {address!r}, {calls}\n{TAIL}\n{client}" for calls in (0, CALLS)]
            write(_line(name, both))
    write("500 pods: memory that one decoded list keeps, nothing, CPU time to decode it\n")
    for name, how in (("mappings", MAPPINGS), ("models", MODELS)):
        write(_line(name, [how + DECODE], LIST))
    write("again: python tests/bench/api_client.py\n")


if __name__ == "__main__":
    main()
