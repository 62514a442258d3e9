"""The earlier version comes from the history, once for each machine, and a clone without that history says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.skew.pinned import PINNED, Checkout, PinnedError, checkout


def test_the_pinned_commit_runs_its_own_packages_and_no_others(old: Checkout) -> None:
    code = "import mochi_api, mochi_operator, mochi_trainer as t; print(mochi_api.__file__, mochi_operator.__file__, t.__file__)"
    done = old.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(old.root)) for path in done.stdout.split()), done.stdout
    assert old.root.name == PINNED


def test_a_clone_without_the_commit_says_how_to_get_it(tmp_path: Path) -> None:
    subprocess.run(("git", "init", "-q", str(tmp_path)), check=True, timeout=30)
    with pytest.raises(PinnedError, match=r"commit 000000000000.* git fetch --unshallow"):
        checkout(tmp_path, commit="0" * 40)
