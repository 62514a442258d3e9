"""The stage trim begins without secrets, forks its readers, and has its environment afterwards."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mochi_api.clips import ClipReason
from tests.trainer.preprocessing_runs import run_file, write_source

SECONDS = 120
MEMORY = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r")


def _started(folder: Path, secret: str, *, clips: int) -> subprocess.Popen[str]:
    source = folder / "source"
    write_source(source)
    for number in range(clips):
        for name in ("bunny.mp4", "bunny.txt"):
            stem, _, ending = name.partition(".")
            (source / f"{stem}{number}.{ending}").write_bytes((source / name).read_bytes())
    run = folder / "run.yaml"
    run.write_text(run_file(folder, width=848, height=480, frames=37, maxFailedItemsPercent=50).to_yaml())
    return subprocess.Popen(
        [sys.executable, "-m", "mochi_trainer", "trim", "--run", str(run)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "AWS_SECRET_ACCESS_KEY": secret,
            "MOCHI_TERMINATION_LOG": str(folder / "log"),
            "NOT_UTF8": "\udcff=1\nline",
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def _holds(process: int, text: str) -> bool:
    """Whether a process has the text anywhere in its memory."""
    with Path(f"/proc/{process}/mem").open("rb") as memory:
        for first, last in _areas(process):
            with suppress(OSError):
                memory.seek(first)
                if text.encode() in memory.read(last - first):
                    return True
    return False


def _areas(process: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        found = MEMORY.match(line)
        if found and not line.endswith(("[vvar]", "[vsyscall]")):
            yield int(found[1], 16), int(found[2], 16)


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_no_reader_ever_has_the_secrets_that_the_stage_has(tmp_path: Path) -> None:
    secret = secrets.token_hex(16)
    process = _started(tmp_path, secret, clips=20)
    until = time.monotonic() + SECONDS
    looked = 0
    try:
        while process.poll() is None and looked < 3:
            assert time.monotonic() < until
            readers = _children(process.pid)
            if not readers or not (tmp_path / "cache").exists():
                time.sleep(0.02)
                continue
            for each in (process.pid, *readers):
                os.kill(each, signal.SIGSTOP)
            assert _holds(process.pid, secret), "the stage itself cannot do without"
            assert not any(_holds(reader, secret) for reader in readers)
            assert all(b"memfd" not in _files(reader) for reader in readers)
            looked += 1
            for each in (*readers, process.pid):
                os.kill(each, signal.SIGCONT)
            time.sleep(0.2)
        assert looked, "it had ended before anybody looked"
    finally:
        process.kill()
        process.communicate()


def _files(process: int) -> bytes:
    return b" ".join(os.fsencode(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir())


def test_the_stage_ends_as_ever_and_leaves_no_reader(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "broken.mp4").write_bytes(b"\0" * 4096)
    (tmp_path / "source" / "broken.txt").write_text("a clip")
    process = _started(tmp_path, "secret", clips=0)
    _, told = process.communicate(timeout=SECONDS)
    log = (tmp_path / "log").read_text()
    assert (process.returncode, ClipReason.CORRUPT in log) == (0, True), told
    assert "2 of 3 clips" in log
    assert '"level": "warning"' in told


def test_options_of_python_and_the_environment_are_kept(tmp_path: Path) -> None:
    code = tmp_path / "sitecustomize.py"
    code.write_text(
        "import atexit, json, os, sys\n"
        "atexit.register(lambda: open(os.environ['NOTE'], 'w').write(json.dumps([sys.flags.optimize, sys.argv[1:],"
        " dict(os.environ)])))\n"
    )
    note = tmp_path / "note"
    environment = {
        "PATH": os.environ["PATH"],
        "NOTE": str(note),
        "ODD": "a=b\nc",
        "EMPTY": "",
        "LANG": "C.UTF-8",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-O", "-m", "mochi_trainer", "trim", "--run", str(tmp_path / "none.yaml")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "there is no run file" in done.stderr
    optimize, arguments, kept = json.loads(note.read_text())
    assert (optimize, arguments[0]) == (1, "trim")
    assert kept.items() >= environment.items()
    assert not {"MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS"} & set(kept), "those are the readers' own"


def test_the_whole_stage_does_without_torch(tmp_path: Path) -> None:
    """Its report too: torch is 400 MB and two seconds, in a pod that asks for neither."""
    write_source(tmp_path / "source")
    file = tmp_path / "run.yaml"
    file.write_text(run_file(tmp_path).to_yaml())
    program = (
        "import sys; from mochi_trainer.__main__ import main; "
        f"code = main(['trim', '--run', {str(file)!r}]); "
        "sys.exit(code or int('torch' in sys.modules) * 99)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MOCHI_TERMINATION_LOG": str(tmp_path / "log"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env=environment,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
