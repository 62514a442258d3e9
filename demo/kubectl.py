"""kubectl as a function: every call has a limit, and an error is what kubectl said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


class KubectlError(Exception):
    """kubectl refused or did not answer; the message has the command and what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubectl:
    """One binary, one cluster, one namespace."""

    binary: str
    kubeconfig: Path | None
    """None takes the current context of the user."""
    namespace: str
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment of the process; empty inherits this one's."""

    def within(self, namespace: str) -> Kubectl:
        """The same for another namespace."""
        return replace(self, namespace=namespace)

    def command(self, *args: str) -> list[str]:
        """The whole command line."""
        config = [] if self.kubeconfig is None else [f"--kubeconfig={self.kubeconfig}"]
        return [self.binary, *config, f"--namespace={self.namespace}", *args]

    def run(self, *args: str, stdin: str | None = None, seconds: float = 60) -> str:
        """Standard output of `kubectl ARGS`; raise KubectlError when it fails or takes longer than `seconds`."""
        said = " ".join(["kubectl", *args])
        try:
            done = subprocess.run(
                self.command(*args),
                input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True, text=True, timeout=seconds, check=False, env=dict(self.env) or None,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise KubectlError(f"{said}: no answer within {seconds:.0f} s") from None
        except FileNotFoundError:
            raise KubectlError(f"{self.binary} is not installed") from None
        if done.returncode != 0:
            raise KubectlError(f"{said}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout

    def json(self, *args: str, seconds: float = 60) -> dict[str, Any]:
        """The object that `kubectl ARGS -o json` prints."""
        answer: dict[str, Any] = json.loads(self.run(*args, "-o", "json", seconds=seconds))
        return answer

    def apply(self, *manifests: Mapping[str, Any], seconds: float = 60) -> None:
        """Apply manifests in their order."""
        document = {"apiVersion": "v1", "kind": "List", "items": [dict(manifest) for manifest in manifests]}
        self.run("apply", "-f", "-", stdin=json.dumps(document), seconds=seconds)
