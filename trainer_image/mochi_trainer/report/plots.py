"""Line plots as inline SVG: axes with round numbers, a legend, and colours that follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from mochi_trainer.report.markup import Html, element, joined

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 44
TICKS = 5

Point = tuple[float, float | None]
"""Step and value; None stands for a number that was not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series."""

    label: str
    points: Sequence[Point]
    style: str
    """Class of the style sheet: `faint`, `main`, `second`."""

    dots: bool = False


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def plot(title: str, lines: Sequence[Line], *, unit: str) -> Html:
    """A plot of the lines over steps; a sentence instead when there is no number to show."""
    points = [point for line in lines for point in line.points]
    values = [value for _, value in points if value is not None]
    if not values:
        return element("p", f"No values for {title.lower()}.", class_="absent")
    x_ticks = ticks(min(step for step, _ in points), max(step for step, _ in points), whole=True)
    y_ticks = ticks(min(values), max(values))
    x = _Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    summary = f"{title} over {len(points)} values, from {min(values):.4g} to {max(values):.4g}"
    svg = element(
        "svg",
        element("title", summary),
        *_axes(x, y, x_ticks, y_ticks, unit),
        *(_line(line, x, y) for line in lines),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="plot",
    )
    return element("figure", element("figcaption", title, _legend(lines)), svg)


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers that enclose the range, about `TICKS` + 1 of them, at least 2."""
    if (high - low) / TICKS <= 0:  # also of a difference too small to be divided
        spread = abs(low) * 0.1 or 1.0
        low, high = (low, low + 1) if whole else (low - spread, high + spread)
    raw = (high - low) / TICKS
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


def _axes(x: _Scale, y: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], unit: str) -> list[Html]:
    marks: list[Html] = []
    for tick in y_ticks:
        height = f"{y.at(tick):.1f}"
        marks.append(element("line", x1=f"{x.start}", x2=f"{x.end}", y1=height, y2=height, class_="grid"))
        marks.append(element("text", _number(tick), x=f"{x.start - 8}", y=height, dy="0.32em", class_="end"))
    for tick in x_ticks:
        at = f"{x.at(tick):.1f}"
        marks.append(element("line", x1=at, x2=at, y1=f"{y.start}", y2=f"{y.start + 5}", class_="axis"))
        marks.append(element("text", _number(tick), x=at, y=f"{y.start + 20}", class_="middle"))
    marks.append(
        element("line", x1=f"{x.start}", x2=f"{x.end}", y1=f"{y.start}", y2=f"{y.start}", class_="axis")
    )
    marks.append(
        element("text", "step", x=f"{(x.start + x.end) / 2}", y=f"{HEIGHT - 6}", class_="middle label")
    )
    middle = (y.start + y.end) / 2
    marks.append(
        element(
            "text", unit, x="14", y=f"{middle}", transform=f"rotate(-90 14 {middle})", class_="middle label"
        )
    )
    return marks


def _line(line: Line, x: _Scale, y: _Scale) -> Html:
    drawn: list[Html] = []
    for finite, run in groupby(line.points, key=lambda point: point[1] is not None):
        places = [(x.at(step), y.at(value) if value is not None else y.start) for step, value in run]
        if not finite:
            drawn += [
                element("text", "×", x=f"{a:.1f}", y=f"{b - 3:.1f}", class_="bad middle") for a, b in places
            ]
            continue
        drawn.append(
            element("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places), class_=line.style)
        )
        if line.dots or len(places) == 1:
            drawn += [
                element("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r="3", class_=line.style) for a, b in places
            ]
    return joined(*drawn)


def _legend(lines: Sequence[Line]) -> Html:
    if len(lines) < 2:
        return Html("")
    keys = (element("span", element("i", class_=line.style), line.label, class_="key") for line in lines)
    return element("span", *keys, class_="legend")


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"
