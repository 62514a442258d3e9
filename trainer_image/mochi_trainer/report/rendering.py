"""The templates: Jinja2 that escapes every value, and the forms in which they show numbers and pictures."""

from __future__ import annotations

import base64
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


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
    filters: dict[str, Any] = {"size": size, "duration": duration, "plain": plain, "data_uri": data_uri}
    environment.filters.update(filters)
    return environment
