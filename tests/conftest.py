"""Fixtures of all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from devcluster import signals


def pytest_configure() -> None:
    """A background job starts with SIGINT ignored, and so would all that the tests start."""
    signals.handle({signal.SIGINT: signal.default_int_handler})


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[1]
