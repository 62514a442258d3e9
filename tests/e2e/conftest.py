"""One system for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.lab import Lab, opened
from tests.e2e.stories import Weights, spec, weights


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def lab(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Control plane, S3, three nodes, the chart installed."""
    with opened(project, tmp_path_factory.mktemp("e2e") / "cluster", nodes=3) as found:
        yield found


@pytest.fixture(scope="session")
def left_alone(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Weights]:
    """The weights of a run that nothing happens to; it begins at once, and is waited for when it is asked for."""
    lab.apply("alone", spec())

    @cache
    def ended() -> Weights:
        return weights(lab, lab.succeeded("alone"), tmp_path_factory.mktemp("alone"))

    return ended
