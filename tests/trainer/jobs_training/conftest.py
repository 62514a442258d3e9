"""What every training in a test needs."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.distributed import free_port


@pytest.fixture(autouse=True)
def _own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and a port for the metrics that nobody else has."""
    torch.set_num_threads(1)
    monkeypatch.setenv("MOCHI_POD_IP", "127.0.0.1")
    monkeypatch.setenv("MOCHI_METRICS_PORT", str(free_port()))
