"""What it costs that the ranks which share a clip read it each for itself, from a real S3 server.

`python -m tests.bench.shared_clips`: so many processes, with the trainer's own reader, of the largest clip that there is.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import sys
import tempfile
import time
from pathlib import Path

from mochi_api.spec import S3Spec
from mochi_trainer.storage import open_store
from tests.trainer.conftest import BUCKET, serving

LATENTS = 2 * 12 * 28 * 60 * 106 * 4
"""Bytes of mean and log variance of 163 frames at 480 x 848, float32."""
CAPTION = 256 * 4096 * 4
"""Bytes of the longest caption's features, float32."""
CLIPS = 6


def main() -> None:
    """Print one line for each number of ranks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "s3"
        folder.mkdir()
        with serving(folder) as server:
            store = open_store(f"s3://{BUCKET}/x", server.spec)
            for number in range(CLIPS):
                store.write_bytes(f"{number}/video", bytes(LATENTS))
                store.write_bytes(f"{number}/caption", bytes(CAPTION))
            for ranks in (1, 2, 4, 8):
                seconds = _seconds(server.spec, ranks)
                rate = ranks * CLIPS * (LATENTS + CAPTION) / seconds / 1e6
                sys.stdout.write(
                    f"{ranks} ranks: {seconds / CLIPS:.2f} s a clip of {(LATENTS + CAPTION) / 1e6:.1f} MB, "
                    f"{rate:.0f} MB/s together\n"
                )


def _seconds(spec: S3Spec, ranks: int) -> float:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(ranks + 1)
    readers = [context.Process(target=_read, args=(spec, barrier)) for _ in range(ranks)]
    for reader in readers:
        reader.start()
    barrier.wait(60)
    started = time.monotonic()
    for reader in readers:
        reader.join(300)
        assert reader.exitcode == 0
    return time.monotonic() - started


def _read(spec: S3Spec, barrier: multiprocessing.synchronize.Barrier) -> None:
    store = open_store(f"s3://{BUCKET}/x", spec)
    store.exists("0/video")  # the client is made
    barrier.wait(60)
    for number in range(CLIPS):
        store.read_bytes(f"{number}/video")
        store.read_bytes(f"{number}/caption")


if __name__ == "__main__":
    main()
