"""The templates: Jinja2 that escapes every value, and the forms in which they show numbers and pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

SHOWN = 220
"""Characters of a long text that are always seen; the rest unfolds."""


def rendered(template: str, **values: object) -> Markup:
    """A template of this package with `values`; a name that it does not get is an error (UndefinedError)."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704 (the template has escaped it)


def asset(name: str) -> Markup:
    """The style sheet or the script, which are ours and hold no text of anybody else."""
    text = resources.files(__package__ or "").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704


def size(count: int) -> str:
    """Bytes for people."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.4g} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain(value: float) -> str:
    """A number of an axis or a table, in a few characters."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"


def folded(text: str) -> tuple[str, str]:
    """The beginning of a text, whole words of it, and the rest; no rest when all of it is short enough to be seen."""
    if len(text) <= SHOWN * 1.2:
        return text, ""
    end = text.rfind(" ", SHOWN // 2, SHOWN) + 1 or SHOWN
    return text[:end], text[end:]


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: tuple[Callable[..., Any], ...] = (size, duration, plain, folded, data_uri)
    environment.filters.update({function.__name__: function for function in filters})
    return environment
