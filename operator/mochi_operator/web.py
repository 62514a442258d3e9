"""`/metrics` and `/healthz` on one port."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from mochi_operator.pulse import Pulse

STOP_SECONDS = 2.0


def application(registry: CollectorRegistry, pulse: Pulse) -> web.Application:
    """The two pages: metrics in Prometheus' text form, and 200 or 503 with the ages of the loops as JSON."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_request: web.Request) -> web.Response:
        report = pulse.report()
        return web.json_response(report, status=200 if report["healthy"] else 503)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    return app


async def serve(app: web.Application, address: str, port: int) -> web.AppRunner:
    """Start serving on one address, or on all when it is empty; the caller cleans the runner up."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, address or None, port).start()
    return runner
