"""`make test` runs all tests in two processes and fails with either."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GOOD, BAD = "def test_it():\n    pass\n", "def test_it():\n    assert 'apples' == 'pears'\n"


def _run(project: Path, folder: Path, **texts: str) -> subprocess.CompletedProcess[str]:
    for name in ("operator", "trainer", "api", "trainer/video", "trainer/footage"):
        (folder / "tests" / name).mkdir(parents=True)
        (folder / "tests" / name / f"test_{Path(name).name}.py").write_text(texts.get(name, GOOD))
    (folder / "tests" / "test_alone.py").write_text(GOOD)
    return subprocess.run(
        [sys.executable, str(project / "tests" / "at_once.py")],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False, env={"PYTHONPATH": str(project)},
    )  # fmt: skip


def test_each_test_runs_once(project: Path, tmp_path: Path) -> None:
    done = _run(project, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(" passed")[0][-1] for line in done.stdout.splitlines() if " passed" in line] == [
        "4",
        "2",
    ]


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_a_failure_of_either_process_is_told(project: Path, tmp_path: Path, name: str) -> None:
    done = _run(project, tmp_path, **{name: BAD})
    assert done.returncode == 1
    assert "'apples' == 'pears'" in done.stdout
    assert ("1 failed, 3 passed" in done.stdout) != ("1 failed, 1 passed" in done.stdout)


def test_a_folder_that_is_gone_is_no_success(project: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(project / "tests" / "at_once.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env={"PYTHONPATH": str(project)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "tests/trainer" in done.stderr
