"""The table that stands for the two images in the dev cluster: this checkout, run by its own environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

OPERATOR = "mochi-operator"
TRAINER = "mochi-trainer"
_HIDDEN = (Path("/tmp"), Path("/run"))  # noqa: S108  # a container has its own of these
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def table(root: Path) -> dict[str, Any]:
    """Image reference -> entry point, environment, and paths to show, as the Dockerfile has them."""
    programs = Path(sys.executable).parent
    needed = dict.fromkeys([root, programs.parent, Path(sys.base_prefix)])
    visible = [
        str(path) for path in needed if any(path.resolve().is_relative_to(hidden) for hidden in _HIDDEN)
    ]
    return {name: _entry(module, programs, visible) for name, module in _MODULES.items()}


_MODULES = {OPERATOR: "mochi_operator", TRAINER: "mochi_trainer"}


def _entry(module: str, programs: Path, visible: list[str]) -> dict[str, Any]:
    return {
        "entrypoint": ["python", "-m", module],
        "env": {
            "PATH": f"{programs}:{_SYSTEM_PATH}",
            "HOME": "/tmp",  # noqa: S108
            "LOGNAME": "mochi",  # the entry for the user that the images have
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        "visible": visible,
    }
