"""The operator's settings, read once from the environment.

Rights the operator needs (the chart's Role or ClusterRole; `tests/contract/test_rbac.py` compares them with the calls
it makes): mochi.finetune.dev mochifinetunes get list watch, mochifinetunes/status patch; batch jobs and kubeflow.org
pytorchjobs create get list watch delete; core pods list watch, pods/log get; core configmaps create get delete; core events create
patch list. With `MOCHI_WATCH_NAMESPACES` set a Role in each of the namespaces is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class SettingsError(ValueError):
    """An environment variable cannot be used; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the chart decides."""

    trainer_image: str
    """`MOCHI_TRAINER_IMAGE`: image of the pods of runs that name none; frozen into their status at the first visit."""

    watch_namespaces: tuple[str, ...] = ()
    """`MOCHI_WATCH_NAMESPACES`: namespaces to look after, separated by commas; empty: all."""

    ca_bundle: str = ""
    """`MOCHI_CA_BUNDLE`: certificates in PEM that the pods of runs trust for S3, where a run names none; empty: none."""

    progress_seconds: float = 30.0
    """`MOCHI_PROGRESS_SECONDS`: shortest time between two writes of training progress into a status."""

    bind_address: str = ""
    """`MOCHI_POD_IP`: address of `/metrics` and `/healthz`; empty: all addresses. The pods of the development cluster
    share the loopback interface, so each listens on its own address only."""

    http_port: int = 8080
    """`MOCHI_HTTP_PORT`: port of `/metrics` and `/healthz`."""

    resync_seconds: float = 60.0
    """`MOCHI_RESYNC_SECONDS`: every run is looked at again after so long, whether or not a watch reported anything."""

    workers: int = 4
    """`MOCHI_WORKERS`: runs that are reconciled at the same time."""

    log_format: str = "json"
    """`MOCHI_LOG_FORMAT`: `json` or `plain`."""

    def __post_init__(self) -> None:
        if not self.trainer_image.strip():
            raise SettingsError("MOCHI_TRAINER_IMAGE must name the trainer image, got nothing")
        if self.ca_bundle.strip() and "-----BEGIN CERTIFICATE-----" not in self.ca_bundle:
            raise SettingsError("MOCHI_CA_BUNDLE must hold certificates in PEM, got a text without one")
        if self.progress_seconds < 1:
            raise SettingsError(f"MOCHI_PROGRESS_SECONDS must be at least 1, got {self.progress_seconds:g}")
        if self.resync_seconds < 1:
            raise SettingsError(f"MOCHI_RESYNC_SECONDS must be at least 1, got {self.resync_seconds:g}")
        if self.workers < 1:
            raise SettingsError(f"MOCHI_WORKERS must be at least 1, got {self.workers}")
        if self.log_format not in ("json", "plain"):
            raise SettingsError(f"MOCHI_LOG_FORMAT must be json or plain, got {self.log_format}")


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings from environment variables; raise SettingsError with the variable that is wrong."""
    return Settings(
        trainer_image=environment.get("MOCHI_TRAINER_IMAGE", ""),
        ca_bundle=environment.get("MOCHI_CA_BUNDLE", ""),
        watch_namespaces=_names(environment.get("MOCHI_WATCH_NAMESPACES", "")),
        progress_seconds=_number(environment, "MOCHI_PROGRESS_SECONDS", 30.0),
        bind_address=environment.get("MOCHI_POD_IP", ""),
        http_port=int(_number(environment, "MOCHI_HTTP_PORT", 8080)),
        resync_seconds=_number(environment, "MOCHI_RESYNC_SECONDS", 60.0),
        workers=int(_number(environment, "MOCHI_WORKERS", 4)),
        log_format=environment.get("MOCHI_LOG_FORMAT", "") or "json",
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "")
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{name} must be a number, got {text}") from None
