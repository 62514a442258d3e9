"""Open a dataset of many clips in S3 and take the first ones: time and memory.

`python -m tests.bench.dataset_start [CLIPS]` starts an S3 server (versitygw) of its own, with 27 kB a clip in a temporary
folder. The exit code says whether the dataset is open, and its first clip read, within a minute.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save

from mochi_api import layout
from mochi_trainer.data import Dataset
from mochi_trainer.storage import Entry, Store, open_store, write_manifest
from tests.trainer.conftest import BUCKET, serving
from tests.trainer.training_runs import KEY, LATENT_SHAPE, TEXT_WIDTH, run_file

START_SECONDS = 60
AT_ONCE = 16
TAKEN = 200


def main() -> int:
    """Upload, open, take some."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        cache = f"s3://{BUCKET}/start/cache"
        names = [f"clip-{number:06d}" for number in range(count)]
        store = open_store(cache, server.spec)
        latents = {"mean": torch.randn(LATENT_SHAPE), "logvar": torch.zeros(LATENT_SHAPE)}
        text = {"features": torch.randn(16, TEXT_WIDTH)}
        _stage(store, "videos", names, save(latents), {"clips": names})
        _stage(
            store, "captions", [*names, "_empty"], save(text), {"captions": {name: name for name in names}}
        )
        run = run_file(Path(name))
        where = run.locations.model_copy(update={"cache": cache})
        run = run.model_copy(update={"locations": where, "s3": server.spec})
        began = time.monotonic()
        with Dataset.open(run) as dataset:
            opened = time.monotonic() - began
            dataset.empty_text()
            dataset.sample(0)
            first = time.monotonic() - began
            taken = list(dataset.samples(range(1, 1 + TAKEN)))
            rate = len(taken) / (time.monotonic() - began - first)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{count} clips: open after {opened:.1f} s, the first read after {first:.1f} s, then {rate:.0f} clips a second; "
        f"peak {peak:.0f} MB\nbound {START_SECONDS} s: {'held' if first < START_SECONDS else 'broken'}\n"
    )
    return 0 if first < START_SECONDS else 1


def _stage(store: Store, stage: str, names: list[str], data: bytes, details: dict[str, object]) -> None:
    """One object for each name, all alike."""
    prefix, sha256 = layout.cache_entry("", stage, KEY), hashlib.sha256(data).hexdigest()
    files = [f"{name}.safetensors" for name in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda file: store.write_bytes(layout.join(prefix, file), data), files))
    write_manifest(
        store, prefix, [Entry(name=file, size=len(data), sha256=sha256) for file in files], details
    )


if __name__ == "__main__":
    sys.exit(main())
