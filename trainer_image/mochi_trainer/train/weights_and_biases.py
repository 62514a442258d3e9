"""The series of a training at Weights & Biases, where the user asks for it by `WANDB_PROJECT`.

The library (the optional extra `wandb`) runs in a process of its own that gets the lines through a pipe: it may hang, wait for a
server, or fail, and the training neither waits for it nor ends with it. `python -m mochi_trainer.train.weights_and_biases` is
that process.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.errors import TrainerError
from mochi_trainer.storage import Store
from mochi_trainer.train.event_file import scalars

log = logging.getLogger(__name__)

VARIABLE = "WANDB_PROJECT"
"""Environment variable of W&B itself: the project; without it nothing is sent."""
MODE = "WANDB_MODE"
PACKAGE = "wandb"

LINES = 100_000
"""Lines that wait for the process; where it takes none, later ones are dropped."""
LAST_SECONDS = 60.0
"""Time that it has at the end to send what it has."""
HURRIED_SECONDS = 5.0
"""The same where the training has failed or is stopped."""

Line = Mapping[str, Any]


def offline() -> bool:
    """Whether each attempt leaves a run of its own, which must have the steps before it too: no server joins them."""
    return os.environ.get(MODE, "") in ("offline", "dryrun")


@contextmanager
def told(run: RunFile, store: Store) -> Iterator[Callable[[Line], None] | None]:
    """What takes each line of the series within the block, or None where nobody asked for it or the library is not there.

    An offline run (`WANDB_MODE=offline`) is left in the run's folder, for `wandb sync`.
    """
    project = os.environ.get(VARIABLE, "")
    if not project:
        yield None
        return
    if importlib.util.find_spec(PACKAGE) is None:
        log.warning(
            "%s is %s, but the package %s is not in this image: build it with its extra (docs/how-to/build-images.md)",
            VARIABLE,
            project,
            PACKAGE,
        )
        yield None
        return
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(_folder()))
            process = _Process(first_line(run, folder))
        except OSError as error:
            log.warning("W&B is told nothing: %s", error)
            yield None
            return
        try:
            yield process.add
        except BaseException:
            process.close(HURRIED_SECONDS)
            raise
        process.close(LAST_SECONDS)
        _keep(folder, store)


def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where W&B works; its own processes may still write there when it is removed."""
    return tempfile.TemporaryDirectory(prefix="mochi-wandb-", ignore_cleanup_errors=True)


def first_line(run: RunFile, folder: Path) -> Line:
    """What the run is called there, and its settings; without addresses and environment."""
    return {
        "id": run.run.uid,
        "name": run.run.name,
        "group": run.run.namespace,
        "dir": str(folder),
        "config": {
            "mode": run.mode,
            "preset": run.model.preset,
            "training": run.training.to_wire(),
            "preprocessing": run.preprocessing.to_wire(),
            "processes": run.world.processes,
            "attempt": run.run.attempt,
        },
    }


class _Process:
    """The other process, and a thread that writes to it."""

    def __init__(self, first: Line) -> None:
        command = [sys.executable, "-P", "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._warned = self._killed = False
        self._lines: queue.Queue[Line | None] = queue.Queue(LINES)
        self._lines.put(first)
        self._writer = threading.Thread(target=self._write, name="wandb", daemon=True)
        self._writer.start()

    def add(self, line: Line) -> None:
        """Take a line, without waiting."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            if not self._warned:
                log.warning("W&B takes no more lines: those from step %s on are not there", line.get("step"))
            self._warned = True

    def close(self, seconds: float) -> None:
        """End it, at the latest after so many seconds."""
        try:
            self._lines.put(None, timeout=1)
            self._process.wait(seconds)
        except (queue.Full, subprocess.TimeoutExpired):
            log.warning("W&B did not take the last lines within %g s", seconds)
            self._killed = True
            self._process.kill()
            self._process.wait()
        if self._process.returncode and not self._killed:
            log.warning("W&B has not all lines: its process ended with %d", self._process.returncode)
        self._writer.join(1)

    def _write(self) -> None:
        assert self._process.stdin is not None, "it was asked for"
        try:
            with self._process.stdin as pipe:
                while (line := self._lines.get()) is not None:
                    pipe.write(json.dumps(line).encode() + b"\n")
                    pipe.flush()
        except OSError:  # it has ended; `close` tells how
            if not self._killed:
                log.warning("W&B takes no more lines: its process has ended")
            while self._lines.get() is not None:
                pass


def _keep(folder: Path, store: Store) -> None:
    """Store what an offline run left; a store that does not answer, or refuses, is no reason to fail."""
    found = [
        path for path in folder.glob("wandb/offline-run-*/**/*") if path.is_file() and path.suffix == ".wandb"
    ]
    for path in found:
        key = layout.join(layout.WANDB, path.parent.name, path.name)
        try:
            store.put(path, key)
        except (TrainerError, OSError) as error:
            log.warning("%s is not stored: %s", store.address(key), error)


def main(pipe: IO[bytes]) -> int:
    """Send the lines of `pipe`; the first says what the run is called."""
    import wandb  # type: ignore[import-not-found,unused-ignore]  # an optional extra

    first = json.loads(pipe.readline())
    try:
        settings = wandb.Settings(console="off", silent=True, disable_git=True, x_save_requirements=False)
        run = wandb.init(
            id=first["id"],
            name=first["name"],
            group=first["group"],
            dir=first["dir"],
            config=first["config"],
            resume="allow",
            settings=settings,
        )
    except Exception as error:  # of its many libraries; the training is told that this process has ended
        sys.stderr.write(f"W&B cannot begin: {type(error).__name__}: {' '.join(str(error).split())}\n")
        return 1
    run.define_metric(
        "training/*", step_metric="training/step"
    )  # a resume repeats steps, and W&B's own never fall
    for text in pipe:
        line = json.loads(text)
        run.log(
            {f"training/{name}": number for name, number in scalars(line)} | {"training/step": line["step"]}
        )
    run.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))
