"""`python -m mochi_operator`: wire the parts together and run until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import aiohttp

from mochi_operator import VERSION, log, web
from mochi_operator.apiserver import ApiServer
from mochi_operator.backend.pytorchjob import PyTorchJobBackend
from mochi_operator.connection import Connector, Login, LoginError
from mochi_operator.controller import Controller
from mochi_operator.gather import Gatherer, Key
from mochi_operator.heartbeats import HttpHeartbeats
from mochi_operator.metrics import Metrics
from mochi_operator.prober import Prober
from mochi_operator.pulse import Pulse
from mochi_operator.settings import Settings, SettingsError, from_environment
from mochi_operator.watches import Watches, kopf_watch
from mochi_operator.workqueue import WorkQueue

_log = logging.getLogger("mochi_operator")

MISSED_TURNS = 5
USAGE_ERROR = 2


async def run(settings: Settings, environment: Mapping[str, str]) -> None:
    """The whole operator; returns on SIGTERM or SIGINT, and when one of its loops ends."""
    connector = Connector(Login(environment))
    await connector.client()
    metrics, backend, queue = Metrics(), PyTorchJobBackend(), WorkQueue[Key]()
    pulse = Pulse(time.monotonic, MISSED_TURNS * settings.resync_seconds)
    cluster = ApiServer(connector)

    def wake(key: Key) -> None:
        queue.add(key)
        metrics.queued(len(queue))

    def watched(key: Key) -> None:
        pulse.watched()
        wake(key)

    async with AsyncExitStack() as stack:
        stack.push_async_callback(connector.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        prober = Prober(
            HttpHeartbeats(session), cluster, time.monotonic, wake, told_seconds=settings.progress_seconds
        )
        stack.push_async_callback(prober.close)
        gatherer = Gatherer(cluster, backend, prober, settings, _now, time.monotonic)
        controller = Controller(cluster, gatherer, backend, queue, metrics, pulse)
        runner = await web.serve(
            web.application(metrics.registry, pulse), settings.bind_address, settings.http_port
        )
        stack.push_async_callback(runner.cleanup)
        stack.callback(queue.close)
        watches = Watches(settings.watch_namespaces, kopf_watch(environment, watched, metrics.heard))
        watches.start()
        stack.push_async_callback(watches.stop)
        await _until_first_ends(
            _stopped(),
            controller.resync(settings.watch_namespaces, settings.resync_seconds),
            *(controller.work() for _ in range(settings.workers)),
        )


def _now() -> datetime:
    return datetime.now(UTC)


async def _stopped() -> None:
    """Wait for SIGTERM or SIGINT, also where whoever started us had them ignored."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()


async def _until_first_ends(*loops: Coroutine[Any, Any, None]) -> None:
    """Run the loops; when one ends, end all, and raise what it raised."""
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Read the settings, run, and return the exit code."""
    try:
        settings = from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"mochi-operator: {error}\n")
        return USAGE_ERROR
    log.configure(settings.log_format)
    scope = ", ".join(settings.watch_namespaces) or "all namespaces"
    _log.info("mochi-operator %s looks after %s; trainer image %s", VERSION, scope, settings.trainer_image)
    try:
        asyncio.run(run(settings, os.environ))
    except LoginError as error:
        _log.error("%s", error)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
