"""Plan a stage for many small clips in S3: time and memory when nothing is new, and when one clip is.

`python -m tests.bench.many_clips [CLIPS]` starts an S3 server (versitygw) of its own, with 20 kB a clip and 7 objects in a
temporary folder. Planning is what a stage does before and after the clips: with nothing new it is all there is to do.
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
from mochi_trainer.storage import Store, open_store
from mochi_trainer.video import encode_mp4
from tests.trainer.conftest import BUCKET, serving
from tests.trainer.preprocessing_runs import run_file

PLANNING_SECONDS = 60
PLANNING_MB = 500
AT_ONCE = 16
KINDS = 20
"""Different clips; the others are copies of them under other names."""


def main() -> int:
    """Upload what is missing, trim it, and measure two further runs in processes of their own; the exit code says whether the bounds hold."""
    if sys.argv[1:2] == ["--trim"]:
        return _trim(parse(Path(sys.argv[2]).read_text()))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        base, folder = f"s3://{BUCKET}/many-clips", Path(name)
        store = open_store(f"{base}/source", server.spec)
        _clips(folder)
        _upload(store, folder, count)
        run = run_file(base, s3=server.spec)
        _told("all new", *_measured(run, folder))
        seconds, megabytes = _told("nothing new", *_measured(run, folder))
        _put(store, folder, "more", 0)
        again, memory = _told("one clip more", *_measured(run, folder))
    held = max(seconds, again) < PLANNING_SECONDS and max(megabytes, memory) < PLANNING_MB
    _say(f"bounds {PLANNING_SECONDS} s and {PLANNING_MB} MB: {'held' if held else 'broken'}")
    return 0 if held else 1


def _clips(folder: Path) -> None:
    for kind in range(KINDS):
        frames = np.random.default_rng(kind).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
        encode_mp4(frames, folder / f"{kind}.mp4", fps=30)


def _upload(store: Store, folder: Path, count: int) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        numbers = range(count)
        names = (f"{number % 100:02}/clip-{number:05}" for number in numbers)
        list(pool.map(lambda name, number: _put(store, folder, name, number % KINDS), names, numbers))


def _put(store: Store, folder: Path, name: str, kind: int) -> None:
    store.put(folder / f"{kind}.mp4", f"{name}.mp4")
    store.write_bytes(f"{name}.txt", f"clip {name}".encode())


def _told(what: str, message: str, seconds: float, cpu: float, megabytes: float) -> tuple[float, float]:
    _say(f"{what}: {message}; {seconds:.1f} s, {cpu:.1f} s of a processor, {megabytes:.0f} MB")
    return seconds, megabytes


def _measured(run: RunFile, folder: Path) -> tuple[str, float, float, float]:
    """What the stage says; seconds, processor seconds of it and its readers, and peak megabytes, its start included."""
    (folder / "run.yaml").write_text(run.to_yaml())
    begun = time.monotonic()
    command = [sys.executable, "-m", "tests.bench.many_clips", "--trim", str(folder / "run.yaml")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    message, cpu, peak = done.stdout.splitlines()[-3:]
    return message, time.monotonic() - begun, float(cpu), float(peak)


def _trim(run: RunFile) -> int:
    from mochi_trainer.jobs import trim

    done = trim.execute(run)
    own, readers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = own.ru_utime + own.ru_stime + readers.ru_utime + readers.ru_stime
    _say(f"{done.message}\n{cpu}\n{own.ru_maxrss / 1024}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
