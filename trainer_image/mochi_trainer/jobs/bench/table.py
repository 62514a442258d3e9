"""The table that the command makes, line by line: what was measured is on the disk before the next case begins."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

Cell = str | int | float | None


class Column(NamedTuple):
    """One column."""

    key: str
    """In the CSV file, with the unit."""
    heading: str
    """In Markdown."""
    text: Callable[[float], str] = "{:g}".format
    """How a number is written there."""


class Table:
    """`bench.csv` and `bench.md` in a folder, and the Markdown as it comes on a stream."""

    def __init__(self, folder: Path, columns: Sequence[Column], title: str, stream: TextIO) -> None:
        self._columns, self._folder, self._stream = columns, folder, stream
        self._rows: list[Mapping[str, Cell]] = []
        headings = [column.heading for column in columns]
        self._lines = [title, "", _line(headings), _line(["---"] * len(headings))]
        self._store()
        self._say("\n".join(self._lines))

    def add(self, row: Mapping[str, Cell]) -> None:
        """A line; a value that it lacks is an empty cell."""
        self._rows.append(row)
        line = _line([_text(column, row.get(column.key)) for column in self._columns])
        self._lines.append(line)
        self._store()
        self._say(line)

    def _store(self) -> None:
        with _replaced(self._folder / "bench.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [column.key for column in self._columns], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows)
        _replaced(self._folder / "bench.md").write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        for name in ("bench.csv", "bench.md"):
            _replaced(self._folder / name).replace(self._folder / name)

    def _say(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _replaced(path: Path) -> Path:
    """What takes the place of `path` when it is whole."""
    return path.with_name(f".{path.name}.partial")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(column: Column, value: Cell) -> str:
    if value is None:
        return ""
    return value.replace("|", "/") if isinstance(value, str) else column.text(value)
