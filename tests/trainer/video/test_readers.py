"""Workers read clips; whatever happens to one is the failure of one clip."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mochi_api.clips import ClipReason
from mochi_trainer.errors import ClipError
from mochi_trainer.footage.duplicates import repeats_of_texts
from mochi_trainer.footage.looking import cut_and_look
from mochi_trainer.video import Cut, Limits, Readers, cut_clip, read_clip, read_frames, strip
from mochi_trainer.video import readers as module
from tests.trainer.video import jobs_of_readers as jobs
from tests.trainer.video.clips import grey_levels, real_clip, write_clip

SECONDS_TO_END = 20


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    with Readers(2, Limits(wall_seconds=60)) as readers:
        yield readers


def _failure(readers: Readers, function: object, *arguments: object) -> ClipError:
    with pytest.raises(ClipError) as caught:
        readers.run(function, *arguments)
    return caught.value


def test_calls_are_answered_by_processes_that_stay(readers: Readers) -> None:
    assert [readers.run(jobs.double, number) for number in range(5)] == [0, 2, 4, 6, 8]
    assert readers.run(jobs.pid) == readers.run(jobs.pid) != os.getpid()


def test_a_worker_knows_no_torch_and_no_credentials(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = set(readers.run(jobs.modules))
    assert "mochi_trainer.video.reading" in loaded
    assert not loaded & {"torch", "transformers", "boto3", "kubernetes", "pydantic"}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Readers(1) as fresh:
        assert "AWS_SECRET_ACCESS_KEY" not in fresh.run(jobs.environment)


def test_a_worker_that_has_cut_a_clip_knows_no_more_of_the_spec(readers: Readers, tmp_path: Path) -> None:
    """Every worker of a stage pays for what it imports."""
    cut = Cut(frames=7, least=7, fps=30, width=112, height=64)
    movie, stills = tmp_path / "cut.mov", tmp_path / "cut.jpg"
    readers.run(cut_and_look, real_clip("bigbuckbunny.mp4"), cut, Limits(), movie, stills, 3, 200)
    readers.run(repeats_of_texts, [])
    assert not set(readers.run(jobs.modules)) & {"pydantic", "boto3", "torch", "mochi_api.spec"}


def test_readers_come_up_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits here until all are there: one after the other none would ever be ready."""
    waiting = (
        f"import os, time; from pathlib import Path; here = Path({str(tmp_path)!r}); (here / str(os.getpid())).touch()\n"
        "while len(list(here.iterdir())) < 3: time.sleep(0.01)\n"
    )
    monkeypatch.setattr(module, "CODE", waiting + module.CODE)
    monkeypatch.setattr(module, "START_SECONDS", SECONDS_TO_END)
    with Readers(3) as fresh, ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda number: fresh.run(jobs.double, number), range(3))) == [0, 2, 4]


def test_a_reader_that_does_not_come_up_is_said_and_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with Readers(1) as fresh:
        with monkeypatch.context() as broken:
            broken.setattr(module, "CODE", "raise SystemExit(7)")
            with pytest.raises(RuntimeError, match=r"a reader could not start \(exit 7\)"):
                fresh.run(jobs.double, 1)
        assert fresh.run(jobs.double, 1) == 2


def test_the_failure_of_a_clip_keeps_its_words_and_its_reason(readers: Readers) -> None:
    before = readers.run(jobs.pid)
    error = _failure(readers, jobs.fail)
    assert (str(error), error.reason) == ("no good", ClipReason.TOO_SHORT)
    assert readers.run(jobs.pid) == before


def test_what_is_no_failure_of_a_clip_passes_as_it_is(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        readers.run(jobs.full_disk)
    assert caught.value.errno == 28
    with pytest.raises(RuntimeError, match="of this function only"):
        readers.run(jobs.not_to_be_pickled)
    with pytest.raises(AttributeError):
        readers.run(lambda: 1)
    monkeypatch.setattr(jobs.double, "__module__", "of_nowhere")
    monkeypatch.setitem(sys.modules, "of_nowhere", jobs)
    with pytest.raises(RuntimeError, match="cannot import what it is to do: No module named 'of_nowhere'"):
        readers.run(jobs.double, 3)
    monkeypatch.undo()
    assert readers.run(jobs.double, 3) == 6


@pytest.mark.parametrize(
    ("number", "reason", "said"),
    [
        (signal.SIGSEGV, ClipReason.CORRUPT, "the decoder crashed on it (SIGSEGV)"),
        (signal.SIGABRT, ClipReason.CORRUPT, "the decoder crashed on it (SIGABRT)"),
        (signal.SIGKILL, ClipReason.TOO_LARGE, "most likely for want of memory"),
    ],
)
def test_a_worker_that_dies_is_the_failure_of_one_clip(
    readers: Readers, number: int, reason: ClipReason, said: str
) -> None:
    error = _failure(readers, jobs.crash, number)
    assert error.reason is reason
    assert said in str(error)
    assert readers.run(jobs.double, 3) == 6


def test_a_worker_that_died_between_two_calls_is_replaced() -> None:
    with Readers(1) as readers:
        first = readers.run(jobs.pid)
        os.kill(first, signal.SIGKILL)
        _gone(first)
        assert readers.run(jobs.pid) != first


def test_time_is_limited() -> None:
    with Readers(1, Limits(wall_seconds=1)) as readers:
        first = readers.run(jobs.pid)
        error = _failure(readers, jobs.hang)
        assert (str(error), error.reason) == ("took longer than 1 s", ClipReason.TIMEOUT)
        _gone(first)
        assert readers.run(jobs.double, 3) == 6


def test_processor_time_is_limited_for_each_call() -> None:
    with Readers(1, Limits(wall_seconds=300, cpu_seconds=1)) as readers:
        error = _failure(readers, jobs.spin)
        assert (str(error), error.reason) == ("took more than 1 s of processor time", ClipReason.TIMEOUT)
        assert readers.run(jobs.double, 3) == 6


def test_memory_is_limited() -> None:
    with Readers(1, Limits(memory_bytes=2 << 30)) as readers:
        assert readers.run(jobs.take, 100 << 20) == 100 << 20
        error = _failure(readers, jobs.take, 2 << 30)
        assert (str(error), error.reason) == (
            "it needs more memory than a clip may take (2048 MiB)",
            ClipReason.TOO_LARGE,
        )
        assert readers.run(jobs.double, 3) == 6


def test_a_clip_that_needs_too_much_memory_is_too_large() -> None:
    cut = Cut(frames=7, least=7, fps=30, width=112, height=64)
    with Readers(1) as readers:
        taken = readers.run(jobs.address_space)
    with Readers(1, Limits(memory_bytes=taken + (8 << 20))) as readers:
        error = _failure(readers, read_clip, real_clip("bigbuckbunny.mp4"), cut)
        assert error.reason is ClipReason.TOO_LARGE
        assert "it needs more memory than a clip may take" in str(error)
        assert readers.run(jobs.double, 3) == 6


def test_as_many_at_once_as_there_are_workers() -> None:
    with Readers(2) as readers, ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: readers.run(jobs.pid), range(30)))
    assert 1 <= len(set(found)) <= 2


def test_workers_outlive_the_thread_that_needed_them_first() -> None:
    with Readers(1) as readers:
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(readers.run, jobs.pid).result()
        time.sleep(0.5)
        assert readers.run(jobs.pid) == first


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path: Path, number: int) -> None:
    note = tmp_path / "pid"
    code = (
        "import sys; from pathlib import Path; from mochi_trainer.video import Readers\n"
        "from tests.trainer.video import jobs_of_readers as jobs\n"
        "Readers(1).run(jobs.hang, Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(note)], env=environment)
    try:
        until = time.monotonic() + 120
        while not (note.exists() and note.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        parent.send_signal(number)
        parent.wait(60)
    _gone(int(note.read_text()))


def test_a_clip_is_cut_into_files_as_if_it_were_read_here(readers: Readers, tmp_path: Path) -> None:
    cut = Cut(frames=13, least=13, fps=30, width=112, height=64)
    source = real_clip("bigbuckbunny.mp4")
    movie, stills = tmp_path / "cut.mov", tmp_path / "cut.jpg"
    done = readers.run(cut_clip, source, cut, Limits(), movie, stills, 3, 200)
    here = read_clip(source, cut)
    assert (done.frames, done.enlargement, done.warnings) == (13, here.enlargement, {})
    assert np.array_equal(read_frames(movie), here.frames)
    assert stills.read_bytes() == strip(here.frames, 3, width=200)


def test_a_clip_that_ends_early_has_its_strip_of_what_is_there(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "short.mp4", grey_levels(10), [33 * k for k in range(10)])
    cut = Cut(frames=30, least=7, fps=30, width=48, height=32)
    done = cut_clip(source, cut, Limits(), tmp_path / "cut.mov", tmp_path / "cut.jpg", 3, 200)
    assert done.frames == 10
    assert (tmp_path / "cut.jpg").read_bytes() == strip(read_clip(source, cut).frames, 3, width=200)


def _gone(process: int) -> None:
    until = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"{process} is still there")
