"""Readers that were forked in time are as good as those that begin anew, and share what they imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.trainer.video.test_readers import _gone

SCRIPT = """
import json, os, signal, sys
from mochi_trainer.video.forking import NURSERY
import mochi_trainer.footage.looking
said, other = os.pipe()
os.close(said)
NURSERY.fill(2, without=other)
from mochi_trainer.errors import ClipError
from mochi_trainer.video import Limits, Readers
from tests.trainer.video import jobs_of_readers as jobs

def failure(readers, function, *arguments):
    try:
        return readers.run(function, *arguments)
    except ClipError as error:
        return [str(error), error.reason]

with Readers(1, Limits(wall_seconds=2, memory_bytes=2 << 30)) as readers:
    found = {
        "first": [readers.run(jobs.pid), readers.run(jobs.pid)],
        "fails": failure(readers, jobs.fail),
        "large": failure(readers, jobs.take, 2 << 30),
        "descriptors": readers.run(jobs.descriptors),
        "crash": failure(readers, jobs.crash, signal.SIGSEGV),
        "second": [readers.run(jobs.pid), readers.run(jobs.pid)],
        "forked": "-P" not in readers.run(jobs.command),
        "hang": failure(readers, jobs.hang),
        "third": "-P" in readers.run(jobs.command),
    }
print(json.dumps(found))
"""


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_they_do_what_others_do_and_are_replaced_by_others() -> None:
    process = _python(SCRIPT)
    told, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    found = json.loads(told)
    first, second = found["first"], found["second"]
    assert first[0] == first[1] != second[0] == second[1]
    assert found["forked"]
    assert found["third"], "there were two"
    assert found["fails"] == ["no good", "TooShort"]
    assert found["large"] == ["it needs more memory than a clip may take (2048 MiB)", "TooLarge"]
    assert len(found["descriptors"]) == 4, "three, and the way to the stage"
    assert found["crash"] == ["the decoder crashed on it (SIGSEGV)", "Corrupt"]
    assert found["hang"] == ["took longer than 2 s", "Timeout"]
    _gone(first[0])
    _gone(second[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_they_end_with_their_parent_whether_they_were_needed_or_not(number: int) -> None:
    code = (
        "import os, time; from mochi_trainer.video.forking import NURSERY\n"
        "from mochi_trainer.video import Readers; from tests.trainer.video import jobs_of_readers as jobs\n"
        "_, other = os.pipe(); NURSERY.fill(2, without=other)\n"
        "print(NURSERY._ready[0][0]._pid, NURSERY._ready[1][0]._pid, flush=True); Readers(1).run(jobs.hang)"
    )
    process = _python(code)
    assert process.stdout is not None
    readers = [int(number) for number in process.stdout.readline().split()]
    time.sleep(0.5)
    process.send_signal(number)
    process.wait(60)
    process.stdout.close()
    for reader in readers:
        _gone(reader)


def test_they_share_what_was_imported(tmp_path: Path) -> None:
    """At least a quarter of the memory that a reader of its own begins with is not there again."""
    code = (
        "import os, sys; from mochi_trainer.video.forking import NURSERY; import mochi_trainer.footage.looking\n"
        "from mochi_trainer.video import Readers; from tests.trainer.video import jobs_of_readers as jobs\n"
        "_, other = os.pipe(); NURSERY.fill(1 if sys.argv[1] == 'forked' else 0, without=other)\n"
        "with Readers(1) as readers: print(readers.run(jobs.own_memory))"
    )
    own = {}
    for kind in ("forked", "begun"):
        told, _ = _python(code, kind).communicate(timeout=120)
        own[kind] = int(told)
    assert own["forked"] < 0.75 * own["begun"], own
