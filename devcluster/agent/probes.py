"""Startup, readiness and liveness probes (httpGet, tcpSocket) of a running container.

exec and grpc probes are not carried out: such a probe counts as passed.
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)
_SUCCESS = range(200, 400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Consecutive results of one probe. `verdict` is None until a threshold is reached."""

    verdict: bool | None = None
    passes: int = 0
    failures: int = 0

    def add(self, passed: bool, spec: Mapping[str, Any]) -> Tally:
        """The tally after one more result."""
        passes = self.passes + 1 if passed else 0
        failures = 0 if passed else self.failures + 1
        verdict = self.verdict
        if passes >= spec.get("successThreshold", 1):
            verdict = True
        elif failures >= spec.get("failureThreshold", 3):
            verdict = False
        return Tally(verdict=verdict, passes=passes, failures=failures)


def port_number(port: int | str, container: Mapping[str, Any]) -> int:
    """A port given by number or by the name of one of the container's ports; `ValueError` when unknown."""
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for item in container.get("ports", ()):
        if item.get("name") == port:
            return int(item["containerPort"])
    raise ValueError(f"container {container['name']} has no port named {port!r}")


def attempt(probe: Mapping[str, Any], container: Mapping[str, Any], pod_ip: str) -> tuple[bool, str]:
    """Carry out one probe: (passed, why not)."""
    timeout = float(probe.get("timeoutSeconds", 1))
    try:
        if "httpGet" in probe:
            return _http(probe["httpGet"], container, pod_ip, timeout)
        if "tcpSocket" in probe:
            target = probe["tcpSocket"]
            address = (target.get("host") or pod_ip, port_number(target["port"], container))
            socket.create_connection(address, timeout=timeout).close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return False, str(error)
    return True, ""


def _http(
    action: Mapping[str, Any], container: Mapping[str, Any], pod_ip: str, timeout: float
) -> tuple[bool, str]:
    host, port = action.get("host") or pod_ip, port_number(action["port"], container)
    if action.get("scheme", "HTTP").upper() == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        headers = {item["name"]: item["value"] for item in action.get("httpHeaders", ())}
        connection.request(
            "GET", action.get("path", "/"), headers={"User-Agent": "kube-probe/devcluster", **headers}
        )
        status = connection.getresponse().status
    finally:
        connection.close()
    return status in _SUCCESS, "" if status in _SUCCESS else f"HTTP probe failed with statuscode: {status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the probes say of a container."""

    started: bool
    ready: bool
    unhealthy: bool
    message: str = ""


class Prober:
    """Probes one attempt of a container in threads of its own until stopped; tells every change."""

    def __init__(self, container: Mapping[str, Any], pod_ip: str, changed: Callable[[Health], None]) -> None:
        self._container = container
        self._pod_ip = pod_ip
        self._changed = changed
        self._stopped = threading.Event()
        self._started = threading.Event()
        self._lock = threading.Lock()
        self._verdicts: dict[str, bool | None] = {}
        kinds = [kind for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in container]
        if "startupProbe" not in kinds:
            self._started.set()
        self._threads = [threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in kinds]

    @property
    def health(self) -> Health:
        """The current verdicts as one."""
        started = self._started.is_set()
        ready = started and (
            "readinessProbe" not in self._container or bool(self._verdicts.get("readinessProbe"))
        )
        failed = [kind for kind in ("startupProbe", "livenessProbe") if self._verdicts.get(kind) is False]
        return Health(started=started, ready=ready, unhealthy=bool(failed), message=", ".join(failed))

    def start(self) -> None:
        """Begin to probe."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; a probe under way is not waited for."""
        self._stopped.set()
        self._started.set()

    def _run(self, kind: str) -> None:
        spec = self._container[kind]
        if kind != "startupProbe":
            self._started.wait()
        self._stopped.wait(spec.get("initialDelaySeconds", 0))
        tally = Tally()
        while not self._stopped.is_set():
            passed, why = attempt(spec, self._container, self._pod_ip)
            tally = tally.add(passed, spec)
            self._settle(kind, tally.verdict, why)
            if kind == "startupProbe" and tally.verdict is not None:
                return
            self._stopped.wait(spec.get("periodSeconds", 10))

    def _settle(self, kind: str, verdict: bool | None, why: str) -> None:
        with self._lock:
            before = self.health
            self._verdicts[kind] = verdict
            if kind == "startupProbe" and verdict:
                self._started.set()
            after = self.health
        if after != before and not self._stopped.is_set():
            log.info(
                "container %s: %s is now %s%s",
                self._container["name"],
                kind,
                verdict,
                f" ({why})" if why else "",
            )
            self._changed(after)
