"""Plan a stage for many small clips in S3: time and memory when nothing is new, and when one clip is.

`python -m tests.bench.many_clips ENDPOINT BUCKET [CLIPS]`, credentials from the environment; it writes below
`many-clips/` in the bucket, about 30 kB a clip, and goes on where an earlier call stopped.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mochi_api.runfile import RunFile, parse
from mochi_api.spec import S3Spec
from mochi_trainer.storage import Store, open_store
from mochi_trainer.video import encode_mp4
from tests.trainer.preprocessing_runs import run_file

PLANNING_SECONDS = 60
PLANNING_MB = 500
AT_ONCE = 16


def main() -> int:
    """Upload what is missing, trim it, and measure two further runs in processes of their own; the exit code says whether the bounds hold."""
    if sys.argv[1] == "--trim":
        return _trim(parse(Path(sys.argv[2]).read_text()))
    endpoint, bucket = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
    base, s3 = f"s3://{bucket}/many-clips", S3Spec(endpoint=endpoint, path_style=True)
    store = open_store(f"{base}/source", s3)
    with tempfile.TemporaryDirectory() as name:
        _upload(store, Path(name), count)
        run = run_file(base, s3=s3)
        _say(f"first run, or the rest of it:    {_measured(run, Path(name))}")
        seconds, megabytes = _measured(run, Path(name))
        _say(f"nothing new: {seconds:.1f} s, {megabytes:.0f} MB")
        _put(store, Path(name), f"more-{time.time_ns()}")
        again, memory = _measured(run, Path(name))
        _say(f"one clip more: {again:.1f} s, {memory:.0f} MB")
    held = max(seconds, again) < PLANNING_SECONDS and max(megabytes, memory) < PLANNING_MB
    _say(f"bounds {PLANNING_SECONDS} s and {PLANNING_MB} MB: {'held' if held else 'broken'}")
    return 0 if held else 1


def _upload(store: Store, folder: Path, count: int) -> None:
    there = {info.key for info in store.list()}
    names = [f"{number % 100:02}/clip-{number:05}" for number in range(count)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: _put(store, folder, name), [n for n in names if f"{n}.txt" not in there]))


def _put(store: Store, folder: Path, name: str) -> None:
    kind = hash(name) % 20
    path = folder / f"{kind}.mp4"
    if not path.exists():
        frames = np.random.default_rng(kind).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
        encode_mp4(frames, folder / f"{kind}.new.mp4", fps=30)
        (folder / f"{kind}.new.mp4").rename(path)
    store.put(path, f"{name}.mp4")
    store.write_bytes(f"{name}.txt", f"clip {name}".encode())


def _measured(run: RunFile, folder: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of the stage in a process of its own, its start included."""
    (folder / "run.yaml").write_text(run.to_yaml())
    begun = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.many_clips", "--trim", str(folder / "run.yaml")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.monotonic() - begun, float(done.stdout.split()[-1])


def _trim(run: RunFile) -> int:
    from mochi_trainer.jobs import trim

    done = trim.execute(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _say(f"{done.message.replace(' ', '_')} {peak}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
