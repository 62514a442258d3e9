"""One cluster for all tests that only use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster import cluster


@pytest.fixture(scope="session")
def start_lines() -> list[str]:
    """What was said while `control_plane` came up."""
    return []


@pytest.fixture(scope="session")
def control_plane(
    tmp_path_factory: pytest.TempPathFactory, start_lines: list[str]
) -> Iterator[cluster.Cluster]:
    """A running cluster with eight fake GPUs; ends with the test process, whatever ends that."""
    folder = tmp_path_factory.mktemp("devcluster") / "shared"
    config = cluster.Config(name="tests", dir=folder, capacity="nvidia.com/gpu=8")
    with cluster.running(config, start_lines.append) as started:
        yield started
