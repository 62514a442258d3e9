"""The Kubernetes API over HTTP, against a small server that answers as the real one was seen to."""

import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from mochi_operator.apiserver import ApiServer, Connection
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

    def __init__(self, *answers: tuple[int, dict]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, object, str]] = []
        self.headers: list[dict] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.text()
        content = request.headers.get("Content-Type", "")
        self.asked.append((request.method, request.path_qs, json.loads(body) if body else None, content))
        self.headers.append(dict(request.headers))
        code, answer = self.answers.pop(0)
        return web.json_response(answer, status=code)


@asynccontextmanager
async def served(recorder: Recorder):
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", recorder.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        connection = Connection(
            server=f"http://127.0.0.1:{port}", session=session, headers={"Authorization": "Bearer t0ken"}
        )

        async def connect() -> Connection:
            return connection

        try:
            yield ApiServer(connect)
        finally:
            await runner.cleanup()


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


async def test_only_a_wrong_object_is_refused_for_good():
    async with served(Recorder((422, status("Invalid")), (403, status("Forbidden")))) as cluster:
        with pytest.raises(RefusedError) as wrong:
            await cluster.create(JOBS, "videos", {})
        with pytest.raises(RefusedError) as forbidden:
            await cluster.create(JOBS, "videos", {})
    assert wrong.value.final
    assert not forbidden.value.final


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


async def test_credentials_travel_in_the_header_and_stay_out_of_texts():
    recorder = Recorder((200, {}))
    async with served(recorder) as cluster:
        await cluster.get(JOBS, "videos", "j")
        assert recorder.headers[0]["Authorization"] == "Bearer t0ken"
        assert "t0ken" not in repr(await cluster._connect())


async def test_a_server_that_is_away_is_unavailable():
    async with aiohttp.ClientSession() as session:

        async def connect() -> Connection:
            return Connection(server="http://127.0.0.1:1", session=session, headers={})

        with pytest.raises(UnavailableError, match="GET /apis/batch/v1"):
            await ApiServer(connect).get(JOBS, "videos", "j")
