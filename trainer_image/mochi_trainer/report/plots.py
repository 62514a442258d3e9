"""Line plots and histograms as inline SVG: axes with round numbers, a legend, colours that follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from markupsafe import Markup

from mochi_trainer.report.rendering import plain, rendered

WIDTH, HEIGHT = 720, 280
BARS_WIDTH, BARS_HEIGHT = 320, 200
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 44
TICKS = 5
BARS = 16
"""About as many, whatever the range."""

Point = tuple[float, float | None]
"""Step and value; None stands for a number that was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series."""

    label: str
    points: Sequence[Point]
    style: str
    """Class of the style sheet: `faint`, `main`, `second`, `third`."""

    dots: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places in the picture."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """Both axes with their marks."""

    width: int
    height: int
    x: Scale
    y: Scale
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x_label: str
    y_label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A part of a series without a gap, in places; without values a mark at each step."""

    places: Sequence[tuple[float, float]]
    finite: bool
    dots: bool
    style: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """Values from `low` to below `high`."""

    low: float
    high: float
    count: int


def plot(title: str, lines: Sequence[Line], *, unit: str) -> Markup:
    """A plot of the lines over steps; a sentence instead when there is no number to show."""
    points = [point for line in lines for point in line.points]
    values = [value for _, value in points if value is not None]
    if not values:
        return rendered("no_values.html", title=title)
    steps = [step for step, _ in points]
    x_ticks, y_ticks = ticks(min(steps), max(steps), whole=True), ticks(min(values), max(values))
    axes = _axes(WIDTH, HEIGHT, x_ticks, y_ticks, ("step", unit))
    pieces = [piece for line in lines for piece in _pieces(line, axes)]
    summary = f"{title} over {len(points)} values, from {min(values):.4g} to {max(values):.4g}"
    legend = lines if len(lines) > 1 else ()
    return rendered("plot.svg", title=title, summary=summary, axes=axes, pieces=pieces, legend=legend)


def histogram(title: str, values: Sequence[float], *, unit: str, whole: bool = False) -> Markup:
    """How many clips have which value; `values` are finite and at least one. `whole` for counts of something."""
    found = bars(values, whole=whole)
    edges = [found[0].low, *(bar.high for bar in found)]
    x_ticks = [tick for tick in ticks(edges[0], edges[-1], whole=whole) if edges[0] <= tick <= edges[-1]]
    y_ticks = ticks(0, max(bar.count for bar in found), whole=True)
    axes = _axes(BARS_WIDTH, BARS_HEIGHT, x_ticks, y_ticks, (unit, "clips"), span=(edges[0], edges[-1]))
    summary = f"{title} of {len(values)} clips, from {plain(min(values))} to {plain(max(values))} {unit}"
    return rendered("histogram.svg", title=title, summary=summary, axes=axes, bars=found, unit=unit)


def bars(values: Sequence[float], *, whole: bool) -> list[Bar]:
    """Bars of one width with round edges that hold each value once."""
    edges = ticks(min(values), max(values), whole=whole, count=BARS)
    if max(values) >= edges[-1]:
        edges.append(edges[-1] + (edges[1] - edges[0]))
    return [
        Bar(low=low, high=high, count=sum(low <= value < high for value in values))
        for low, high in pairwise(edges)
    ]


def ticks(low: float, high: float, *, whole: bool = False, count: int = TICKS) -> list[float]:
    """Round numbers that enclose the range, about `count` + 1 of them, at least 2."""
    if (high - low) / count <= 0:  # also of a difference too small to be divided
        spread = abs(low) * 0.1 or 1.0
        low, high = (low, low + 1) if whole else (low - spread, high + spread)
    raw = (high - low) / count
    power: float = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def smoothed(points: Sequence[Point], *, weight: float = 0.9) -> list[Point]:
    """Exponential mean without the pull of the first value; values that are not finite are passed over."""
    mean, share = 0.0, 0.0
    result: list[Point] = []
    for step, value in points:
        if value is not None:
            mean = weight * mean + (1 - weight) * value
            share = weight * share + (1 - weight)
        result.append((step, mean / share if share else None))
    return result


def _axes(
    width: int,
    height: int,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    labels: tuple[str, str],
    *,
    span: tuple[float, float] | None = None,
) -> Axes:
    """`span` are the ends of the horizontal axis where they are not its outermost ticks."""
    low, high = span or (x_ticks[0], x_ticks[-1])
    return Axes(
        width=width,
        height=height,
        x=Scale(low, high, LEFT, width - RIGHT),
        y=Scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP),
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        x_label=labels[0],
        y_label=labels[1],
    )


def _pieces(line: Line, axes: Axes) -> list[Piece]:
    """The parts of a series between its gaps, and the gaps."""
    pieces: list[Piece] = []
    for finite, run in groupby(line.points, key=lambda point: point[1] is not None):
        places = [
            (axes.x.at(step), axes.y.at(value) if value is not None else axes.y.start) for step, value in run
        ]
        dots = line.dots or len(places) == 1
        pieces.append(Piece(places=places, finite=finite, dots=dots, style=line.style))
    return pieces
