"""A whole agent against an API server that knows two pods and whose node has one address for them."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from devcluster.agent.agent import Agent, Options
from devcluster.agent.api import Access
from devcluster.agent.node import NodeSpec
from devcluster.agent.resources import Pool

WAIT = 60.0
ADDRESS = "127.9.7.10"


def pod(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "c", "image": "shell", "args": ["sleep 0.5"]}],
        },
    }


class Cluster:
    """Two pods, and what the agent tells of them."""

    def __init__(self) -> None:
        self.statuses: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.stopped = threading.Event()
        handler = type("BoundHandler", (Handler,), {"cluster": self})
        self.server = ThreadingHTTPServer(("127.9.7.1", 0), handler)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        if method == "GET":
            mine = query.get("fieldSelector") == ["spec.nodeName=n"]
            return {"metadata": {"resourceVersion": "1"}, "items": [pod("a"), pod("b")] if mine else []}
        if path.endswith("/events"):
            self.events.put(body)
        elif "/pods/" in path:
            self.statuses.put((path.split("/")[-2], body["status"]["phase"]))
        return {**body, "metadata": {"uid": "u"}}


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        if "watch" in query:
            self.send_response(200)
            self.end_headers()
            self.cluster.stopped.wait(WAIT)
            return
        known = self.command != "GET" or url.path in ("/api/v1/pods", "/api/v1/services")
        self.send_response(200 if known else 404)
        self.end_headers()
        answer = self.cluster.answer(self.command, url.path, query, body) if known else {}
        self.wfile.write(json.dumps(answer).encode())

    do_PATCH = do_POST = do_DELETE = do_GET


@pytest.fixture
def api() -> Iterator[Cluster]:
    made = Cluster()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.stopped.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def agent(api: Cluster, tmp_path: Path) -> Iterator[Agent]:
    images = tmp_path / "images.json"
    images.write_text(
        json.dumps({"shell": {"entrypoint": ["/bin/sh", "-c"], "env": {"PATH": "/usr/bin:/bin"}}})
    )
    made = Agent(
        Options(
            access=Access(server=f"http://127.9.7.1:{api.server.server_port}"),
            node=NodeSpec(name="n", ip="127.9.7.3", capacity={}),
            addresses=Pool("pod addresses", [ADDRESS]),
            state=tmp_path / "state",
            images=images,
        )
    )
    made.start()
    yield made
    made.stop()


def test_a_pod_that_finds_no_address_says_so_and_gets_that_of_a_pod_that_ends(
    api: Cluster, agent: Agent
) -> None:
    told = api.events.get(timeout=WAIT)
    assert (told["type"], told["reason"]) == ("Warning", "FailedCreatePodSandBox")
    assert told["message"] == ("Failed to create pod sandbox: pod addresses: 1 wanted, 0 left on this node")
    waiting = told["involvedObject"]["name"]
    ended = [name for name in ("a", "b") if name != waiting]
    while len(ended) < 3:
        name, phase = api.statuses.get(timeout=WAIT)
        if phase == "Succeeded":
            ended.append(name)
    assert ended[1:] == [ended[0], waiting]
    assert api.events.empty(), "it is told once"
