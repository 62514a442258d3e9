"""The earlier version: a commit of this repository's own history, unpacked into the cache, and run beside this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.binaries import cache_dir

PINNED = "cdebd3677619d3d87d88803e59099959584f8a6a"
"""The commit that this one is held against. It moves only when a version is no longer supported beside the next."""
LIMIT_SECONDS = 120.0
_PACKAGES = ("crds", "operator", "trainer_image")


class PinnedError(Exception):
    """The earlier version cannot be had, or a program of it failed; the message says what to do, or what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkout:
    """A version of this repository in a folder, run by the environment of this one."""

    root: Path

    def env(self) -> dict[str, str]:
        """Environment in which Python finds this version's packages, and no other's."""
        places = [*(str(self.root / name) for name in _PACKAGES), str(self.root)]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, *args: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start `python ARGS` of this version."""
        return subprocess.Popen(
            [sys.executable, "-P", *args], env=self.env(), cwd=self.root, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs,
        )  # fmt: skip

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """What `python ARGS` of this version came to."""
        return subprocess.run(
            [sys.executable, "-P", *args], env={**self.env(), **(env or {})}, cwd=self.root, text=True,
            capture_output=True, stdin=subprocess.DEVNULL, check=False, timeout=LIMIT_SECONDS,
        )  # fmt: skip

    def ask(self, question: str, document: object) -> Any:
        """The answer of `answers.py`, run as part of this version, to one of its questions. Raises PinnedError."""
        done = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name("answers.py")), question],
            env=self.env(), cwd=self.root, text=True, capture_output=True, check=False, timeout=LIMIT_SECONDS,
            input=json.dumps(document),
        )  # fmt: skip
        if done.returncode != 0:
            raise PinnedError(f"{question}, asked of {self.root}: {done.stderr[-4000:]}")
        return json.loads(done.stdout)


def checkout(project: Path, commit: str = PINNED) -> Checkout:
    """The commit, unpacked once for each machine. Raises PinnedError when the clone does not have it."""
    folder = cache_dir().parent / "versions" / commit
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "tree"
            _unpack(project, commit, made)
            _placed(made, folder)
    return Checkout(root=folder)


def _unpack(project: Path, commit: str, to: Path) -> None:
    command: Sequence[str] = ("git", "-C", str(project), "archive", "--format=tar", commit)
    with tempfile.TemporaryFile() as archive:
        done = subprocess.run(
            command, stdout=archive, stderr=subprocess.PIPE, check=False, timeout=LIMIT_SECONDS
        )
        if done.returncode != 0:
            raise PinnedError(
                f"commit {commit[:12]}, against which this version is tested, is not in the history of {project}: "
                f"git fetch --unshallow ({done.stderr.decode(errors='replace').strip()})"
            )
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(to, filter="data")


def _placed(made: Path, folder: Path) -> None:
    """In one move, so that nobody ever finds half a version; another process may have been faster."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
