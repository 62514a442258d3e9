"""How a run looks: a live picture in a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.watch import Event, Observation, Point, parse_time
from mochi_api.status import StageStatus, TrainingStatus

MARKS = {
    "Pending": ("·", "dim"),
    "Running": ("●", "cyan"),
    "Succeeded": ("✓", "green"),
    "Failed": ("✗", "red"),
}
_BLOCKS = "▁▂▃▄▅▆▇█"
_EVENTS_SHOWN = 5
_BAR = 28
"""Characters of the bar and of the loss below it: the line fits into 80 columns."""


def duration(seconds: float) -> str:
    """`8 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def sparkline(losses: Sequence[Point], width: int = _BAR) -> str:
    """The course of the loss in at most `width` characters, each the mean of the points it stands for."""
    if not losses:
        return ""
    count = min(width, len(losses))
    edges = [index * len(losses) // count for index in range(count + 1)]
    values = [sum(point.loss for point in losses[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


def stage_words(stage: StageStatus) -> str:
    """Counts and whether the work was done before."""
    words = []
    if stage.items_total:
        words.append(f"{stage.items_done} of {stage.items_total} clips")
    if stage.items_failed:
        words.append(f"{stage.items_failed} could not be used")
    if stage.cache_hit:
        words.append("reused from the cache")
    if stage.message and stage.state == "Failed":
        words.append(stage.message)
    return ", ".join(words)


def stage_seconds(stage: StageStatus) -> str:
    """How long a finished stage took."""
    if stage.start_time is None or stage.completion_time is None:
        return ""
    return duration((parse_time(stage.completion_time) - parse_time(stage.start_time)).total_seconds())


def training_words(training: TrainingStatus) -> str:
    """Step, loss, time left, and the attempt when it is not the first."""
    words = [f"step {training.step}/{training.total_steps}"]
    if training.loss:
        words.append(f"loss {float(training.loss):.4f}")
    if training.estimated_remaining_seconds is not None and training.step < training.total_steps:
        words.append(f"{duration(training.estimated_remaining_seconds)} left")
    if training.replicas_running > 1:
        words.append(f"{training.replicas_running} pods")
    if training.attempt > 1:
        words.append(f"attempt {training.attempt}")
    return ", ".join(words)


def _training_state(seen: Observation) -> str:
    training = seen.status.training
    if training is None or training.attempt == 0:
        return "Pending"
    if training.total_steps and training.step >= training.total_steps:
        return "Succeeded"
    return "Failed" if seen.status.phase == "Failed" else "Running"


def _row(table: Table, state: str, name: str, *cells: RenderableType) -> None:
    mark, style = MARKS[state]
    table.add_row(Text(mark, style), Text(name, "bold" if state == "Running" else ""), *cells)


def _steps(seen: Observation) -> Table:
    table = Table.grid(padding=(0, 2))
    before = [stage for stage in seen.status.stages if stage.name not in ("sample", "preview")]
    after = [stage for stage in seen.status.stages if stage.name in ("sample", "preview")]
    for stage in before:
        _row(table, stage.state, stage.name, Text(stage_words(stage)), Text(stage_seconds(stage), "dim"))
    training = seen.status.training
    if training is not None and training.total_steps:
        bar = ProgressBar(total=training.total_steps, completed=training.step, width=_BAR)
        _row(table, _training_state(seen), "training", bar, Text(training_words(training)))
        table.add_row("", Text("loss", "dim"), Text(sparkline(seen.losses), "cyan"), "")
    else:
        _row(table, "Pending", "training", "", "")
    for stage in after:
        _row(table, stage.state, stage.name, Text(stage_words(stage)), Text(stage_seconds(stage), "dim"))
    return table


def _event_line(event: Event, now: datetime) -> Text:
    ago = duration(max(0.0, (now - event.time).total_seconds()))
    style = "yellow" if event.kind == "Warning" else "dim"
    return Text(f"{ago:>12} ago  {event.reason}: {event.message}", style, no_wrap=True, overflow="ellipsis")


def picture(seen: Observation, elapsed: float, now: datetime) -> RenderableType:
    """The whole picture of one moment."""
    head = Text.assemble(
        (seen.name, "bold"),
        f"  {seen.mode}  ",
        (seen.status.phase, "bold cyan"),
        (f"  {duration(elapsed)}", "dim"),
    )
    parts: list[RenderableType] = [Text(), head, Padding(_steps(seen), (1, 0, 1, 2))]
    parts += [_event_line(event, now) for event in seen.events[-_EVENTS_SHOWN:]]
    return Group(*parts)


class View(Protocol):
    """Shows a run while it goes on; used as a context manager around the watch."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, seen: Observation, elapsed: float, now: datetime) -> None:
        """Show what was seen, `elapsed` seconds after the start."""
        ...


class LiveView:
    """A picture that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, seen: Observation, elapsed: float, now: datetime) -> None:
        """Draw the picture."""
        self._live.update(picture(seen, elapsed, now))


class PlainView:
    """One line for each change; training speaks at every tenth of its steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(self, seen: Observation, elapsed: float, now: datetime) -> None:  # noqa: ARG002  # the live view uses it
        """Say what changed."""
        for stage in seen.status.stages:
            details = "  ".join(word for word in (stage_words(stage), stage_seconds(stage)) if word)
            self._say(stage.name, f"{stage.state} {details}".strip(), elapsed, quiet=stage.state == "Pending")
        training = seen.status.training
        if training is not None and training.total_steps and training.attempt:
            tenth = f"{training.attempt}/{training.step * 10 // training.total_steps}/{bool(training.loss)}"
            self._say("training", tenth, elapsed, text=training_words(training))
        for index, event in enumerate(seen.events):
            if event.kind == "Warning":
                self._say(f"event {index}", f"{event.reason}: {event.message}", elapsed, label="warning")

    def _say(
        self, topic: str, news: str, elapsed: float, *, text: str = "", label: str = "", quiet: bool = False
    ) -> None:
        if self._said.get(topic) == news:
            return
        self._said[topic] = news
        if not quiet:
            line = f"{elapsed:5.0f} s  {label or topic:<9} {text or news}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def view_for(console: Console) -> View:
    """The live picture in a terminal, lines in a pipe or under CI."""
    return LiveView(console) if console.is_terminal else PlainView(console)
