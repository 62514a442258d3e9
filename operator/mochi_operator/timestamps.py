"""Kubernetes timestamps: RFC 3339 in UTC with whole seconds, and aware datetimes inside."""

from __future__ import annotations

from datetime import UTC, datetime


def parse(text: str | None) -> datetime | None:
    """The moment `text` names, or None when there is none."""
    if not text:
        return None
    return datetime.fromisoformat(text).astimezone(UTC)


def render(moment: datetime) -> str:
    """`moment` as the API server writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_unix(seconds: float | None) -> str | None:
    """Unix seconds as a timestamp, or None when there are none."""
    return None if seconds is None else render(datetime.fromtimestamp(seconds, UTC))


def seconds_since(text: str | None, now: datetime) -> float | None:
    """Age of a timestamp, or None when there is none."""
    moment = parse(text)
    return None if moment is None else (now - moment).total_seconds()
