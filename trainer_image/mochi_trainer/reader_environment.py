"""What readers of clips know of the environment; a module by itself, since it is needed before anything large is imported."""

from __future__ import annotations

import os
import sys

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "TZ")
"""What a worker sees of the environment; above all no credentials."""

USING_LITTLE = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
"""Threads and arenas reserve address space, of which a worker has little. What is left of aligned buffers, which are all of
libav's, would be kept for each thread and hold the holes around it open: 3 MB of a reader of 1080p, and nothing is slower."""


def reader_environment() -> dict[str, str]:
    """What a reader sees of that of this process."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, **USING_LITTLE, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
