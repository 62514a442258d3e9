"""Signs of life by HTTP, from a server that answers, hangs, lies or sends us elsewhere."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from mochi_api.heartbeat import NOT_TOLD
from mochi_api.progress import PORT
from mochi_operator.heartbeats import LIMIT_BYTES, LIMIT_SECONDS, HttpHeartbeats, of_progress
from tests.operator.world import heartbeat

ADDRESS = "127.0.0.83"
Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
BEAT = heartbeat(done=7)


async def asked(pages: dict[str, Page], address: str = ADDRESS):
    """What is made of a server with these pages."""
    app = web.Application()
    for path, page in pages.items():
        app.router.add_get(path, page)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, PORT).start()
    try:
        async with aiohttp.ClientSession() as session:
            return await HttpHeartbeats(session).ask(address)
    finally:
        await runner.cleanup()


def answering(body: str | bytes, status: int = 200) -> Page:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    return page


async def test_a_sign_of_life_is_read():
    assert await asked({"/heartbeat": answering(BEAT.model_dump_json(by_alias=True))}) == BEAT


async def test_a_body_that_comes_in_pieces_is_read_whole():
    async def page(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        text = BEAT.model_dump_json(by_alias=True).encode()
        for at in range(0, len(text), 40):
            await response.write(text[at : at + 40])
            await asyncio.sleep(0.005)
        return response

    assert await asked({"/heartbeat": page}) == BEAT


async def test_a_redirect_is_not_followed():
    visits = []

    async def elsewhere(_request: web.Request) -> web.Response:
        visits.append("elsewhere")
        return web.Response(text=BEAT.model_dump_json(by_alias=True))

    async def page(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    assert await asked({"/heartbeat": page, "/elsewhere": elsewhere}) is None
    assert visits == []


async def test_a_body_without_end_is_given_up_at_its_limit():
    sent = 0

    async def page(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while sent < 256 * LIMIT_BYTES:
                await response.write(b" " * LIMIT_BYTES)
                sent += LIMIT_BYTES
        except (ConnectionResetError, aiohttp.ClientError):
            pass
        return response

    assert await asked({"/heartbeat": page}) is None
    assert sent < 256 * LIMIT_BYTES


async def test_an_answer_that_dribbles_is_given_up_in_its_time():
    async def page(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(600):
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    begun = time.monotonic()
    assert await asked({"/heartbeat": page}) is None
    assert time.monotonic() - begun < 15 * LIMIT_SECONDS


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '"x"', "null", "{}", '{"attempt": -1}', b"\xff\xfe", '{"attempt": 1e400}']
)
async def test_garbage_counts_as_silence(body):
    assert await asked({"/heartbeat": answering(body)}) is None


@pytest.mark.parametrize("status", [204, 401, 500, 503])
async def test_another_code_counts_as_silence(status):
    assert await asked({"/heartbeat": answering(BEAT.model_dump_json(by_alias=True), status)}) is None


async def test_no_server_is_silence():
    assert await asked({}, address="127.0.0.84") is None


async def test_an_image_of_an_earlier_version_is_asked_for_its_progress():
    body = '{"step": 3, "totalSteps": 9, "loss": 0.5, "checkpointStep": 2, "checkpointUri": "s3://c/2"}'
    found = await asked({"/progress": answering(body)})
    assert found is not None
    assert (found.done, found.total, found.loss, found.checkpoint_uri) == (3, 9, 0.5, "s3://c/2")
    assert found.activity == NOT_TOLD


@pytest.mark.parametrize("moment", ["1e20", "-1e20", "1e400", '"soon"', "null"])
def test_a_clock_that_lies_makes_no_error(moment):
    body = f'{{"step": 3, "totalSteps": 9, "lastStepTime": {moment}, "stepSeconds": 1e400}}'
    found = of_progress(body.encode(), now=1_800_000_000.0)
    assert found is not None
    assert (found.done, found.step_seconds) == (3, None)
    assert 0 <= found.quiet_seconds <= 1e9


async def test_fields_of_a_newer_version_are_ignored():
    body = '{"attempt": 1, "activity": "dreaming", "quietSeconds": 1, "mood": {"good": true}, "done": "many"}'
    found = await asked({"/heartbeat": answering(body)})
    assert found is not None
    assert (found.activity, found.done) == ("dreaming", 0)
