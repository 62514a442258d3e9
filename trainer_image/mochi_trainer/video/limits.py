"""How much one clip may take before it is given up."""

from __future__ import annotations

import resource
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of reading one clip. What a header claims beyond them is refused before memory is taken."""

    pixels: int = 8192 * 4608
    """Of a picture as it is stored: 8K passes."""

    seconds: float = 4 * 3600.0
    """Length that a header may claim."""

    samples: int = 4_000_000
    """Frames that a header may claim: four hours at 240 fps have 3.5 million."""

    header_bytes: int = 256 << 20
    """Size of the index (`moov`)."""

    wall_seconds: float = 600.0
    """Time in a worker process, waiting included."""

    cpu_seconds: int = 900
    """Processor time in a worker process, of all its threads."""

    memory_bytes: int = 4 << 30
    """Address space of a worker process."""

    threads: int = 1
    """Threads that decode one clip; 0: as many as there are cores. Several clips at once use the cores better."""


def too_much_memory() -> str:
    """What to say when memory is refused in this process."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    there = "there is" if most == resource.RLIM_INFINITY else f"a clip may take ({most >> 20} MiB)"
    return f"it needs more memory than {there}"
