"""Settings, log lines, the pages of the operator, and what Kopf is told to do."""

import json
import logging

import aiohttp
import kopf
import pytest

from mochi_api import identity
from mochi_api import metrics as table
from mochi_operator import handlers, web
from mochi_operator.log import JsonFormatter
from mochi_operator.metrics import Metrics
from mochi_operator.pulse import Pulse
from mochi_operator.settings import Settings, SettingsError, from_environment


def test_settings_come_from_the_environment():
    found = from_environment(
        {
            "MOCHI_TRAINER_IMAGE": "trainer:1", "MOCHI_WATCH_NAMESPACES": "a, b,", "MOCHI_PROGRESS_SECONDS": "2",
            "MOCHI_POD_IP": "127.0.0.9",
        }
    )  # fmt: skip
    assert found == Settings(
        trainer_image="trainer:1", watch_namespaces=("a", "b"), progress_seconds=2.0,
        bind_address="127.0.0.9",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "MOCHI_TRAINER_IMAGE"),
        ({"MOCHI_PROGRESS_SECONDS": "soon"}, "MOCHI_PROGRESS_SECONDS must be a number, got soon"),
        ({"MOCHI_PROGRESS_SECONDS": "0"}, "MOCHI_PROGRESS_SECONDS must be at least 1, got 0"),
        ({"MOCHI_RESYNC_SECONDS": "0"}, "MOCHI_RESYNC_SECONDS must be at least 1"),
        ({"MOCHI_WORKERS": "0"}, "MOCHI_WORKERS must be at least 1, got 0"),
        ({"MOCHI_LOG_FORMAT": "xml"}, "MOCHI_LOG_FORMAT must be json or plain, got xml"),
    ],
)
def test_a_wrong_setting_is_named(environment, message):
    base = {"MOCHI_TRAINER_IMAGE": "t"} if environment else {}
    with pytest.raises(SettingsError, match=message):
        from_environment({**base, **environment})


def test_a_log_line_is_one_json_object():
    record = logging.LogRecord("mochi", logging.WARNING, "f", 1, "a %s", ("b",), None)
    line = json.loads(JsonFormatter().format(record))
    assert {key: line[key] for key in ("level", "logger", "message")} == {
        "level": "warning", "logger": "mochi", "message": "a b"
    }  # fmt: skip


async def test_the_pages_answer_and_health_turns_503_when_the_loop_hangs(unused_tcp_port):
    now = [0.0]
    runner = await web.serve(
        web.application(Metrics().registry, Pulse(lambda: now[0], 60)), "127.0.0.1", unused_tcp_port
    )
    base = f"http://127.0.0.1:{unused_tcp_port}"
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/healthz") as answer:
                assert answer.status == 200
            async with session.get(f"{base}/metrics") as answer:
                text = await answer.text()
            now[0] = 61.0
            async with session.get(f"{base}/healthz") as answer:
                assert (answer.status, (await answer.json())["healthy"]) == (503, False)
    finally:
        await runner.cleanup()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {row.name for row in table.OPERATOR_METRICS} <= names


async def credentials() -> kopf.ConnectionInfo:
    return kopf.ConnectionInfo(server="https://x")


async def test_each_event_is_heard_by_what_it_is_of_and_wakes_its_run():
    woken, heard = [], []
    made = handlers.registry(woken.append, heard.append, credentials)
    for kind in handlers.WATCHED:
        (handler,) = [
            each
            for each in made._watching.get_all_handlers()
            if (each.selector.group, each.selector.plural or each.selector.any_name)
            in {(kind.group, kind.plural)}
        ]
        resource = kopf.Resource(kind.group, kind.version, kind.plural)
        await handler.fn(
            resource=resource, namespace="videos", name="bus", labels={identity.LABEL_FINETUNE: "bus"}
        )
    assert heard == [kind.plural for kind in handlers.WATCHED]
    assert woken == [("videos", "bus")] * len(handlers.WATCHED)


def test_kopf_only_watches():
    made = handlers.registry(lambda key: None, lambda plural: None, credentials)
    assert len(made._watching.get_all_handlers()) == len(handlers.WATCHED)
    for kind in (made._changing, made._spawning, made._indexing, made._webhooks):
        assert kind.get_all_handlers() == [], "a finalizer or an annotation would follow"
    chosen = handlers.settings()
    assert chosen.scanning.disabled
    assert not chosen.posting.enabled
