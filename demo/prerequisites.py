"""What the machine must offer before anything is started; each lack is one line that says what to do."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

FREE_DISK_GB = 2
FREE_MEMORY_GB = 3


def linux() -> str | None:
    """The dev cluster runs pods with Linux namespaces."""
    if platform.system() == "Linux":
        return None
    return f"Linux is needed (pods run in its namespaces), found {platform.system()}; use --cluster current"


def user_namespaces() -> str | None:
    """Without them the pods cannot have their own mounts."""
    if shutil.which("unshare") is None:
        return "the program unshare is missing (package util-linux)"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"],
        capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == 0:
        return None
    return (
        "user namespaces are switched off; as root: sysctl -w kernel.unprivileged_userns_clone=1 "
        "(Ubuntu 24.04: kernel.apparmor_restrict_unprivileged_userns=0)"
    )


def disk() -> str | None:
    """Space for the cluster's state and the results."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return None if free >= FREE_DISK_GB else f"{FREE_DISK_GB} GB of free disk are needed, found {free:.1f} GB"


def memory() -> str | None:
    """Memory for the control plane and one training pod."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:") and (free := int(line.split()[1]) / 1e6) < FREE_MEMORY_GB:
            return f"{FREE_MEMORY_GB} GB of free memory are needed, found {free:.1f} GB"
    return None


CHECKS: Sequence[Callable[[], str | None]] = (linux, user_namespaces, disk, memory)


def lacking(checks: Sequence[Callable[[], str | None]] = CHECKS) -> list[str]:
    """What is missing, one line each; the rest is not looked at once the system is the wrong one."""
    found: list[str] = []
    for check in checks:
        problem = check()
        if problem is not None:
            found.append(problem)
            if check is linux:
                break
    return found
