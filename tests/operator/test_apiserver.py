"""The Kubernetes API over HTTP, against a small server that answers as the real one was seen to."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from mochi_operator.apiserver import ApiServer
from mochi_operator.cluster import (
    EVENTS,
    JOBS,
    PODS,
    AlreadyExistsError,
    NotServedError,
    RefusedError,
    StaleError,
    UnavailableError,
)


class Recorder:
    """Answers every request with the next of the prepared answers, and keeps what was asked."""

    def __init__(self, *answers: tuple) -> None:
        self.answers = list(answers)
        """Code, JSON or text, and headers if there are any."""
        self.asked: list[tuple[str, str, object, str]] = []
        self.headers: list[dict] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.text()
        content = request.headers.get("Content-Type", "")
        self.asked.append((request.method, request.path_qs, json.loads(body) if body else None, content))
        self.headers.append(dict(request.headers))
        code, answer, *headers = self.answers.pop(0)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(text=text, status=code, headers=dict(*headers))


class OneClient:
    """A connector whose credentials never change."""

    def __init__(self, server: str) -> None:
        token = {"BearerToken": "Bearer t0ken"}
        self.made = ApiClient(Configuration(host=server, api_key=token))
        self.refusals = 0

    async def client(self) -> ApiClient:
        return self.made

    def refused(self) -> None:
        self.refusals += 1


@asynccontextmanager
async def listening(handler):
    """A connector to a server on this machine that gives every request to the handler."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connector = OneClient(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield connector
    finally:
        await connector.made.close()
        await runner.cleanup()


@asynccontextmanager
async def served(recorder: Recorder):
    async with listening(recorder.handle) as connector:
        yield ApiServer(connector)


def status(reason: str, message: str = "told") -> dict:
    return {"kind": "Status", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (404, "NotFound", NotServedError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", StaleError),
        (422, "Invalid", RefusedError),
        (403, "Forbidden", RefusedError),
        (429, "TooManyRequests", UnavailableError),
        (401, "Unauthorized", UnavailableError),
        (500, "InternalError", UnavailableError),
    ],
)
async def test_every_refusal_is_one_of_our_errors(code, reason, error):
    async with served(Recorder((code, status(reason)))) as cluster:
        with pytest.raises(error, match="told"):
            await cluster.create(JOBS, "videos", {"metadata": {"name": "j"}})


async def test_an_object_that_is_not_there_is_none():
    async with served(Recorder((404, status("NotFound")))) as cluster:
        assert await cluster.get(JOBS, "videos", "j") is None


async def test_lists_come_page_by_page_and_items_get_their_kind_back():
    pages = [
        (200, {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}),
        (200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}),
    ]
    recorder = Recorder(*pages)
    async with served(recorder) as cluster:
        found = await cluster.list(JOBS, "videos", labels={"mochi.finetune.dev/finetune": "x"})
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in found] == [
        ("Job", "batch/v1", "a"),
        ("Job", "batch/v1", "b"),
    ]
    path = "/apis/batch/v1/namespaces/videos/jobs?limit=500&labelSelector=mochi.finetune.dev/finetune%3Dx"
    assert [asked[1] for asked in recorder.asked] == [path, path + "&continue=more"]


async def test_core_kinds_and_all_namespaces_have_their_paths():
    recorder = Recorder((200, {"items": None}))
    async with served(recorder) as cluster:
        assert await cluster.list(PODS, None) == []
    assert recorder.asked[0][1] == "/api/v1/pods?limit=500"


async def test_the_status_is_written_only_over_the_version_that_was_read():
    recorder = Recorder((200, {}))
    async with served(recorder) as cluster:
        await cluster.write_status("videos", "d", resource_version="7", status={"phase": "Training"})
    method, path, body, content = recorder.asked[0]
    assert (method, content) == ("PATCH", "application/json-patch+json")
    assert path == "/apis/mochi.finetune.dev/v1alpha1/namespaces/videos/mochifinetunes/d/status"
    assert body == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": "/status", "value": {"phase": "Training"}},
    ]


async def test_deletion_names_the_object_by_uid_and_one_that_is_gone_is_fine():
    recorder = Recorder((200, {}), (404, status("NotFound")), (409, status("Conflict")))
    async with served(recorder) as cluster:
        for _ in range(3):
            await cluster.delete(JOBS, "videos", "j", uid="u")
    assert recorder.asked[0][2] == {"propagationPolicy": "Background", "preconditions": {"uid": "u"}}


async def test_an_event_said_again_moves_its_time():
    recorder = Recorder((409, status("AlreadyExists")), (200, {}))
    event = {"metadata": {"name": "e"}, "lastTimestamp": "now"}
    async with served(recorder) as cluster:
        await cluster.record("videos", event)
    assert recorder.asked[1][:3] == (
        "PATCH",
        f"/api/v1/namespaces/videos/{EVENTS.plural}/e",
        {"lastTimestamp": "now"},
    )


async def test_credentials_travel_in_the_header():
    recorder = Recorder((200, {}))
    async with served(recorder) as cluster:
        await cluster.get(JOBS, "videos", "j")
    assert recorder.headers[0]["Authorization"] == "Bearer t0ken"


async def test_credentials_that_are_not_taken_are_reported():
    async with listening(Recorder((401, status("Unauthorized"))).handle) as connector:
        with pytest.raises(UnavailableError, match="told"):
            await ApiServer(connector).get(JOBS, "videos", "j")
    assert connector.refusals == 1


async def test_a_manifest_is_sent_as_it_is():
    manifest = {"metadata": {"name": "j"}, "spec": {"a": None, "b": [], "c": {"d_e": 1.5, "fG": True}}}
    recorder = Recorder((201, {}))
    async with served(recorder) as cluster:
        await cluster.create(JOBS, "videos", manifest)
    assert recorder.asked[0] == (
        "POST",
        "/apis/batch/v1/namespaces/videos/jobs",
        manifest,
        "application/json",
    )


async def test_a_server_that_is_away_is_unavailable():
    connector = OneClient("http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="GET /apis/batch/v1") as away:
        await ApiServer(connector).get(JOBS, "videos", "j")
    await connector.made.close()
    assert away.value.retry_after is None
    assert "no answer within 10 s" in away.value.words


async def test_an_answer_that_is_no_json_is_unavailable():
    async with served(Recorder((200, "<html>log in here</html>"))) as cluster:
        with pytest.raises(UnavailableError, match="no JSON object: b'<html>"):
            await cluster.get(JOBS, "videos", "j")


BUSY = (429, status("TooManyRequests", "too many requests"), {"Retry-After": "0"})
STARTING = (503, status("ServiceUnavailable", "starting"), {"Retry-After": "0"})


@pytest.mark.parametrize("busy", [BUSY, STARTING])
async def test_a_read_waits_as_long_as_the_server_asks(busy):
    recorder = Recorder((busy[0], busy[1], {"Retry-After": "1"}), busy, (200, {"metadata": {"name": "j"}}))
    async with served(recorder) as cluster:
        before = time.monotonic()
        assert await cluster.get(JOBS, "videos", "j") == {"metadata": {"name": "j"}}
    assert time.monotonic() - before >= 1
    assert len(recorder.asked) == 3


async def test_a_creation_is_made_again_only_where_it_has_had_no_effect():
    recorder = Recorder(BUSY, (201, {}), STARTING)
    async with served(recorder) as cluster:
        await cluster.create(JOBS, "videos", {"metadata": {"name": "j"}})
        with pytest.raises(UnavailableError, match="starting") as unclear:
            await cluster.create(JOBS, "videos", {"metadata": {"name": "j"}})
    assert len(recorder.asked) == 3
    assert (unclear.value.retry_after, unclear.value.words) == (0.0, "starting")


async def test_a_deletion_is_made_again_because_it_names_the_uid():
    recorder = Recorder(STARTING, (200, {}))
    async with served(recorder) as cluster:
        await cluster.delete(JOBS, "videos", "j", uid="u")
    assert len(recorder.asked) == 2


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}])
async def test_a_server_that_does_not_say_when_is_left_to_the_caller(headers):
    recorder = Recorder((503, status("ServiceUnavailable"), headers))
    async with served(recorder) as cluster:
        with pytest.raises(UnavailableError) as error:
            await cluster.get(JOBS, "videos", "j")
    assert error.value.retry_after is None


async def test_a_wait_that_is_longer_than_a_call_may_take_is_left_to_the_caller():
    recorder = Recorder((429, status("TooManyRequests"), {"Retry-After": "30"}))
    async with served(recorder) as cluster:
        before = time.monotonic()
        with pytest.raises(UnavailableError) as busy:
            await cluster.get(JOBS, "videos", "j")
    assert time.monotonic() - before < 30
    assert len(recorder.asked) == 1
    assert busy.value.retry_after == 30


async def test_a_server_that_is_always_busy_ends_the_call():
    recorder = Recorder(*[BUSY] * 20)
    async with served(recorder) as cluster:
        with pytest.raises(UnavailableError, match="too many requests"):
            await cluster.get(JOBS, "videos", "j")
    assert len(recorder.asked) == 5


def named(name: str, **meta: str) -> dict:
    return {"metadata": meta, "items": [{"metadata": {"name": name}}]}


GONE = (410, status("Expired", "The provided continue parameter is too old"))


async def test_a_list_whose_moment_is_forgotten_starts_over_and_has_nothing_twice():
    recorder = Recorder((200, named("a", **{"continue": "1"})), GONE, (200, named("a")))
    async with served(recorder) as cluster:
        found = await cluster.list(PODS, "videos")
    assert [item["metadata"]["name"] for item in found] == ["a"]
    assert [("continue" in asked[1]) for asked in recorder.asked] == [False, True, False]


async def test_a_list_starts_over_once():
    async with served(Recorder(GONE, GONE)) as cluster:
        with pytest.raises(UnavailableError, match="too old"):
            await cluster.list(PODS, "videos")


async def log_of(cluster: ApiServer, limit: int = 1024) -> str | None:
    return await cluster.log("videos", "p", container="trainer", since_seconds=60, limit_bytes=limit)


async def test_the_end_of_a_log_is_asked_for():
    recorder = Recorder((200, "one\ntwo\n", {"Content-Type": "text/plain"}))
    async with served(recorder) as cluster:
        assert await log_of(cluster) == "one\ntwo\n"
    path = "/api/v1/namespaces/videos/pods/p/log?container=trainer&sinceSeconds=60&limitBytes=1024"
    assert recorder.asked == [("GET", f"{path}&tailLines=4", None, "application/json")]


async def test_a_log_whose_end_is_cut_is_asked_for_with_fewer_lines():
    recorder = Recorder((200, "x" * 8192), (200, "y" * 8192), (200, "end"))
    async with served(recorder) as cluster:
        assert await log_of(cluster, 8192) == "end"
    assert [asked[1].rpartition("=")[2] for asked in recorder.asked] == ["32", "4", "1"]


async def test_a_line_that_is_longer_than_the_limit_comes_as_far_as_it_fits():
    async with served(Recorder((200, "x" * 256))) as cluster:
        assert await log_of(cluster, 256) == "x" * 256


KUBELET = 'Get "https://10.0.0.7:10250/containerLogs/videos/p/trainer": dial tcp 10.0.0.7:10250: i/o timeout'


@pytest.mark.parametrize(
    "answer",
    [
        (404, status("NotFound", 'pods "p" not found')),
        (400, status("BadRequest", 'container "trainer" in pod "p" is waiting to start: ContainerCreating')),
        (500, status("InternalError", KUBELET)),
        (502, "bad gateway"),
    ],
)
async def test_a_log_that_cannot_be_read_is_none(answer):
    async with served(Recorder(answer)) as cluster:
        assert await log_of(cluster) is None


async def test_a_log_without_the_right_to_read_it_is_refused():
    words = (
        'pods "p" is forbidden: User "u" cannot get resource "pods/log" in API group "" in the namespace "v"'
    )
    async with served(Recorder((403, status("Forbidden", words)))) as cluster:
        with pytest.raises(RefusedError) as error:
            await log_of(cluster)
    assert error.value.cause == "forbidden"


async def test_a_log_of_a_server_that_is_away_is_an_error():
    connector = OneClient("http://127.0.0.1:1")
    with pytest.raises(UnavailableError):
        await log_of(ApiServer(connector))
    await connector.made.close()


async def test_every_call_is_bounded():
    release = asyncio.Event()

    async def hang(_request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({})

    async with listening(hang) as connector:
        cluster = ApiServer(connector, call_seconds=0.2)
        with pytest.raises(UnavailableError, match=r"no answer within 0\.2 s"):
            await cluster.create(JOBS, "videos", {})
        assert await log_of(cluster) is None, "the kubelet is taken to be silent"
        release.set()
