"""Fixtures of all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

from devcluster import signals


def pytest_configure() -> None:
    """A background job starts with SIGINT ignored, and so would all that the tests start.

    Hypothesis calls an example that takes more than 0.2 s an error, which a busy machine makes of any.
    """
    signals.handle({signal.SIGINT: signal.default_int_handler})
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[1]
