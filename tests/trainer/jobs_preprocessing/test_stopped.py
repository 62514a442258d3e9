"""A stage that is asked to stop does so in seconds, whatever its workers are at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.trainer.jobs_preprocessing.killed import write_clips
from tests.trainer.preprocessing_runs import run_file

SECONDS = 120
"""Less than the readers would take, and more than a busy machine needs to start another one."""


def test_sigterm_ends_trim_while_a_reader_hangs(tmp_path: Path) -> None:
    write_clips(tmp_path / "source", 3)
    (tmp_path / "run.yaml").write_text(run_file(tmp_path).to_yaml())
    program = (
        "import sys, time; from mochi_trainer.jobs import cutting; from mochi_trainer.__main__ import main;"
        "cutting.Cutter._cut = lambda self, key, clip, folder: self._readers.run(time.sleep, 300);"
        f"sys.exit(main(['trim', '--run', {str(tmp_path / 'run.yaml')!r}]))"
    )
    environment = {
        **os.environ,
        "MOCHI_TERMINATION_LOG": str(tmp_path / "termination"),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE
    ) as process:
        try:
            _until(lambda: _readers_of(process.pid) > 0)
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=SECONDS)
        finally:
            process.kill()
    assert code == 143
    assert '"Preempted"' in (tmp_path / "termination").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("mochi-trim-")]


def _readers_of(pid: int) -> int:
    """Workers that have been given something to do."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [child for file in children for child in file.read_text().split()]
    return sum(b"serve" in Path(f"/proc/{child}/cmdline").read_bytes() for child in found)


def _until(condition: object) -> None:
    for _ in range(1200):
        if condition():  # type: ignore[operator]
            time.sleep(1)
            return
        time.sleep(0.1)
    raise AssertionError("no reader began within 120 s")
