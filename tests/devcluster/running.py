"""What runs on this machine, for tests that leave nothing behind."""

from __future__ import annotations

from pathlib import Path


def processes_of(name: object) -> list[str]:
    """Command lines of the processes that name a folder, or any other text."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(name) in command:
            found.append(command)
    return found
