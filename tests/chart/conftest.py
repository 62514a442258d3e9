"""The chart rendered by the real Helm, and promtool, for the tests of this folder."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster import binaries

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "mochi-operator"
NAMESPACE = "mochi-system"
KUBE_VERSION = "1.34.0"

Documents = list[dict[str, Any]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def helm() -> Run:
    """Run Helm with these arguments; nothing is raised when it exits with an error."""
    return _command("helm")


@pytest.fixture(scope="session")
def promtool() -> Run:
    """Run promtool with these arguments, in the chart's folder."""
    return _command("promtool")


@pytest.fixture(scope="session")
def render(helm: Run) -> Callable[..., Documents]:
    """The documents of a release named mochi with the values of tests/chart/values/<case>.yaml."""

    @cache
    def rendered(case: str = "defaults", *arguments: str) -> Documents:
        values = Path(__file__).parent / "values" / f"{case}.yaml"
        done = helm("template", "mochi", str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBE_VERSION,
                    "--values", str(values), *arguments)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return rendered


def _command(name: str) -> Run:
    path = str(binaries.ensure(name, logging.getLogger(__name__).info))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [path, *arguments], cwd=CHART, capture_output=True, text=True, timeout=60, check=False
        )

    return run
