"""What a cluster needs before a MochiFineTune can run in it: namespaces, the storage secret, the operator."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.kubectl import Kubectl, KubectlError

RELEASE = "mochi-operator"


class InstallError(Exception):
    """Helm did not install the chart; the message has what Helm and the pods said."""


def namespace(name: str) -> dict[str, Any]:
    """A namespace that admits only pods of the Pod Security level `restricted`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def storage_secret(name: str, access_key: str, secret_key: str) -> dict[str, Any]:
    """The secret that `storage.s3.credentialsSecretName` names."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "Opaque",
        "stringData": {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
    }


def operator(kubectl: Kubectl, helm: str, chart: Path, values: Mapping[str, Any], *, seconds: float) -> None:
    """Install the chart into the namespace of `kubectl` and wait until the operator is ready.

    Raises InstallError after `seconds`, or when Helm refuses.
    """
    config = [] if kubectl.kubeconfig is None else [f"--kubeconfig={kubectl.kubeconfig}"]
    command = [
        helm, *config, f"--namespace={kubectl.namespace}", "upgrade", "--install", RELEASE, str(chart),
        "--values=-", "--wait", f"--timeout={max(1, round(seconds))}s",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, input=json.dumps(values), capture_output=True, text=True, check=False,
            timeout=seconds + 15, env=dict(kubectl.env) or None,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InstallError(f"helm did not come back within {seconds:.0f} s\n{pods_say(kubectl)}") from None
    if done.returncode != 0:
        raise InstallError(f"helm: {done.stderr.strip()}\n{pods_say(kubectl)}")


def pods_say(kubectl: Kubectl, lines: int = 20) -> str:
    """State and last log lines of the operator's pods, for an error message."""
    said = []
    for args in (("get", "pods", "-o", "wide"), ("logs", f"deployment/{RELEASE}", f"--tail={lines}")):
        try:
            said.append(kubectl.run(*args, seconds=15).strip())
        except KubectlError as error:
            said.append(str(error))
    return "\n".join(said)
