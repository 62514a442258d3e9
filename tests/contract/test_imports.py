"""The import contracts hold, and each of them is seen to fail when it is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

BREAKS = {
    "the contract types know no framework and no I/O": ("crds/mochi_api/layout.py", "import boto3"),
    "what writes the CRD and the pages knows the contract types alone": (
        "crds/mochi_codegen/generated.py",
        "import boto3",
    ),
    "the operator knows neither torch nor storage nor the trainer": (
        "operator/mochi_operator/timestamps.py",
        "import mochi_trainer.errors",
    ),
    "the trainer knows neither Kubernetes nor the operator": (
        "trainer_image/mochi_trainer/errors.py",
        "import kopf",
    ),
    "the dev cluster knows none of the others": ("devcluster/cluster.py", "import mochi_api.layout"),
    "the operator's layers": ("operator/mochi_operator/names.py", "import mochi_operator.apply"),
    "deciding and building are pure": ("operator/mochi_operator/decide.py", "import asyncio"),
    "the trainer's layers": ("trainer_image/mochi_trainer/seeds.py", "import mochi_trainer.model"),
}
"""Contract -> a file, and an import that breaks it."""

FOLDERS = ("crds", "operator", "trainer_image", "devcluster", "demo")


def _copy(project: Path, to: Path) -> None:
    for folder in FOLDERS:
        shutil.copytree(
            project / folder, to / folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__")
        )
    shutil.copy(project / "pyproject.toml", to)


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    roots = os.pathsep.join(str(folder / part) for part in ("crds", "operator", "trainer_image", "."))
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": roots, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_contract_has_a_case_that_breaks_it(project: Path) -> None:
    contracts = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == set(BREAKS)


def test_what_writes_the_crd_is_in_no_image(project: Path) -> None:
    wheel = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert "crds/mochi_api" in wheel["packages"]
    assert "crds/mochi_codegen" not in wheel["packages"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (project / "Dockerfile").read_text(), re.MULTILINE)
    sources = {Path(source) for line in copied for source in line.split()}
    assert {source for source in sources if Path("crds/mochi_codegen").is_relative_to(source)} == set()


def test_the_contracts_hold(project: Path, tmp_path: Path) -> None:
    _copy(project, tmp_path)
    result = _lint(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def broken_report(project: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("broken")
    _copy(project, folder)
    for name, line in BREAKS.values():
        path = folder / name
        path.write_text(path.read_text() + f"\n{line}\n")
    result = _lint(folder)
    assert result.returncode != 0
    return result.stdout


@pytest.mark.parametrize("contract", BREAKS)
def test_a_broken_contract_is_reported(contract: str, broken_report: str) -> None:
    assert f"{contract} BROKEN" in broken_report
