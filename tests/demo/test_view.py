"""What a person gets to see."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from demo.view import LiveView, PlainView, duration, picture, sparkline, view_for
from demo.watch import Event, Observation, Point
from mochi_api.status import FineTuneStatus, StageStatus, TrainingStatus

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
TRIM = StageStatus(
    name="trim", state="Succeeded", items_total=3, items_done=2, items_failed=1,
    start_time="2026-01-01T00:00:00Z", completion_time="2026-01-01T00:00:02Z",
)  # fmt: skip
VIDEOS = StageStatus(name="videos", state="Succeeded", items_total=3, items_done=3, cache_hit=True)


def seen(step: int = 62, *, loss: str = "0.8123") -> Observation:
    training = TrainingStatus(
        attempt=1, step=step, total_steps=120, loss=loss, estimated_remaining_seconds=35
    )
    return Observation(
        name="bunny",
        mode="lora",
        status=FineTuneStatus(
            phase="Training",
            stages=[TRIM, VIDEOS, StageStatus(name="sample", state="Pending")],
            training=training,
        ),
        events=(Event(NOW, "Warning", "ClipFailed", "bikes.mp4 is [broken]"),),
        losses=(Point(1, 2.0), Point(2, 1.0)),
    )


def console() -> Console:
    return Console(file=io.StringIO(), width=140, force_terminal=False)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_the_picture_tells_stages_counts_reuse_step_loss_time_left_and_events() -> None:
    output = console()
    output.print(picture(seen(), 75, NOW))
    shown = text(output)
    for words in (
        "bunny", "lora", "Training", "1 min 15 s", "2 of 3 clips, 1 could not be used", "2 s",
        "3 of 3 clips, reused from the cache", "step 62/120, loss 0.8123, 35 s left", "█▁",
        "ClipFailed: bikes.mp4 is [broken]",
    ):  # fmt: skip
        assert words in shown


def test_the_picture_of_a_run_nobody_has_looked_at_yet_is_no_error() -> None:
    output = console()
    output.print(picture(Observation(name="bunny", mode="full", status=FineTuneStatus()), 0, NOW))
    assert "Pending" in text(output)


def test_plain_lines_say_each_change_once() -> None:
    output = console()
    view = PlainView(output)
    for step in (62, 63, 63):
        view.show(seen(step), 75, NOW)
    lines = text(output).splitlines()
    assert len(lines) == 4
    assert lines[0] == "   75 s  trim      Succeeded 2 of 3 clips, 1 could not be used  2 s"
    assert lines[2] == "   75 s  training  step 62/120, loss 0.8123, 35 s left"
    assert lines[3] == "   75 s  warning   ClipFailed: bikes.mp4 is [broken]"


def test_plain_lines_speak_again_at_the_next_tenth_of_the_steps() -> None:
    output = console()
    view = PlainView(output)
    view.show(seen(62), 75, NOW)
    view.show(seen(72), 80, NOW)
    assert "step 72/120" in text(output)


def test_a_pipe_gets_lines_and_a_terminal_the_picture() -> None:
    assert isinstance(view_for(console()), PlainView)
    assert isinstance(view_for(Console(file=io.StringIO(), force_terminal=True)), LiveView)


def test_a_sparkline_falls_when_the_loss_falls_and_is_never_wider_than_asked() -> None:
    line = sparkline([Point(step, 100.0 - step) for step in range(100)], width=10)
    assert len(line) == 10
    assert line[0] == "█"
    assert line[-1] == "▁"
    assert list(line) == sorted(line, reverse=True)
    assert sparkline([]) == ""
    assert sparkline([Point(1, 1.0)]) == "▁"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_loss_that_is_not_finite_is_shown_as_it_is() -> None:
    output = console()
    output.print(picture(seen(loss="NaN"), 75, NOW))
    assert "loss nan" in text(output)
