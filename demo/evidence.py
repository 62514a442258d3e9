"""What a failed run said, saved before its cluster goes away."""

from __future__ import annotations

from pathlib import Path

from demo.install import RELEASE
from demo.kubectl import Kubectl, KubectlError
from mochi_api import identity


def _ask(kubectl: Kubectl, *args: str) -> str:
    try:
        return kubectl.run(*args, seconds=20)
    except KubectlError as error:
        return f"{error}\n"


def collect(kubectl: Kubectl, operator_namespace: str, folder: Path) -> list[Path]:
    """Write the log of every pod, the Events and the resource itself as files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "describe.txt": _ask(kubectl, "describe", f"{identity.PLURAL}.{identity.GROUP}"),
        "events.txt": _ask(kubectl, "get", "events", "--sort-by=.metadata.creationTimestamp"),
        "pods.txt": _ask(kubectl, "get", "pods", "-o", "wide"),
        "operator.log": _ask(kubectl.within(operator_namespace), "logs", f"deployment/{RELEASE}"),
    }
    for pod in _ask(kubectl, "get", "pods", "-o", "name").split():
        if pod.startswith("pod/"):
            texts[f"{pod.removeprefix('pod/')}.log"] = _ask(kubectl, "logs", pod)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]
