"""A process that stands still says where; one that moves, or waits for its peers, says nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mochi_trainer import environment
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.movement import Movement
from mochi_trainer.watchdog import VARIABLE, watched


def hanging_somewhere(over: threading.Event) -> None:
    over.wait(60)


def written(path: Path, movement: Movement, until: Callable[[str], bool], *, seconds: float) -> str:
    """What the watchdog wrote of a process with a thread that hangs, when `until` holds or `seconds` are over."""
    over = threading.Event()
    thread = threading.Thread(target=hanging_somewhere, args=(over,))
    thread.start()
    try:
        with path.open("w") as file, watched(movement, after=0.2, to=file):
            end = time.monotonic() + seconds
            while time.monotonic() < end and not until(path.read_text()):
                time.sleep(0.02)
    finally:
        over.set()
        thread.join()
    return path.read_text()


def test_the_stacks_of_all_threads_are_written_once_when_nothing_moves(tmp_path: Path) -> None:
    movement = Movement()
    movement.doing("training")
    first = written(tmp_path / "stacks", movement, lambda text: "hanging_somewhere" in text, seconds=60)
    assert "in hanging_somewhere" in first
    assert "in test_the_stacks_of_all_threads_are_written_once" in first
    again = written(tmp_path / "again", movement, lambda text: text.count("in watch") > 1, seconds=1.5)
    assert again.count("in watch") <= 1


def test_whoever_waits_for_peers_is_left_alone(tmp_path: Path) -> None:
    movement = Movement()
    movement.doing("waiting for peers")
    assert written(tmp_path / "stacks", movement, bool, seconds=1) == ""


def test_whoever_moves_is_left_alone(tmp_path: Path) -> None:
    clock = [0.0]
    movement = Movement(clock=lambda: clock[0])
    movement.doing("training")
    assert written(tmp_path / "stacks", movement, bool, seconds=1) == ""


def test_the_time_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.1")
    movement = Movement()
    with (tmp_path / "stacks").open("w") as file, watched(movement, to=file):
        end = time.monotonic() + 60
        while time.monotonic() < end and not (tmp_path / "stacks").read_text():
            time.sleep(0.02)
    assert "most recent call first" in (tmp_path / "stacks").read_text()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused_with_its_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCHI_STACKS_AFTER_SECONDS", text)
    with pytest.raises(
        InvalidInputError, match=f"MOCHI_STACKS_AFTER_SECONDS must be .* above 0, got '{text}'"
    ):
        environment.seconds("MOCHI_STACKS_AFTER_SECONDS", 240)
    monkeypatch.setenv("MOCHI_STACKS_AFTER_SECONDS", "")
    assert environment.seconds("MOCHI_STACKS_AFTER_SECONDS", 240) == 240
