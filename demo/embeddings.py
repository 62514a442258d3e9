"""Embeddings that outlive the demo's cluster, so that the next demo can reuse them as a second run in production does.

They lie in the user's cache folder, a few MB; `make clean` removes them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from demo.bucket import Bucket
from mochi_api.layout import MANIFEST, cache_entry, units
from mochi_api.status import StageStatus


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/mochi-operator/demo`, or the same below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mochi-operator" / "demo"


def save(bucket: Bucket, folder: Path, stages: Iterable[StageStatus]) -> int:
    """Replace `folder` by what the stages of a run, and the units they list, hold; return how many bytes that is."""
    prefixes = [cache_entry("cache", stage.name, stage.cache_key) for stage in stages if stage.cache_key]
    prefixes += [units("cache", name, "") for name in ("trim", "captions", "videos")]
    keys = [found for prefix in prefixes for found in bucket.keys(f"{prefix}/")]
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for key, _ in keys:
        bucket.get_file(key, fresh / key)
    if keys:
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return sum(size for _, size in keys)


def load(bucket: Bucket, folder: Path) -> int:
    """Put what `save` kept back into the bucket, manifests last; return how many bytes that is."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    for path in sorted(files, key=lambda path: (path.name == MANIFEST, path)):
        bucket.put_file(path, path.relative_to(folder).as_posix())
    return sum(path.stat().st_size for path in files)


def forget(folder: Path) -> bool:
    """Remove what was kept; tell whether there was anything."""
    found = folder.is_dir()
    shutil.rmtree(folder, ignore_errors=True)
    return found
