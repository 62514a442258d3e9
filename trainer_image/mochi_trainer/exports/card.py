"""Model cards: the README.md beside every export, as people and hubs read it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mochi_trainer.storage.manifest import file_sha256

BASE_LICENCE = "apache-2.0"
"""Of the published Mochi-1."""
HUB_NAMES = {"mochi-1": "genmo/mochi-1-preview"}
"""What hubs call the base models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file that was written."""

    name: str
    """Path relative to the card."""
    uri: str
    sha256: str
    size_bytes: int


def artifact(path: Path, *, name: str, uri: str) -> Artifact:
    """What a card says about the file at `path`; reads every byte."""
    return Artifact(name=name, uri=uri, sha256=file_sha256(path), size_bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """How one tool takes the files."""

    tool: str
    text: str
    """One or two sentences."""
    code: str = ""
    language: str = "bash"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Everything a card says, in the order in which it says it."""

    title: str
    summary: str
    preset: str
    relation: str
    """To the base model, as hubs call it: adapter, merge or finetune; empty for the base itself."""
    tags: Sequence[str] = ()
    uses: Sequence[Use] = ()
    tables: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By heading; rows without a value are left out, and tables without a row."""
    files: Sequence[Artifact] = ()
    reproduce: Use


def render(card: Card) -> str:
    """The card as Markdown with YAML front matter."""
    parts = [_front_matter(card), f"# {card.title}", card.summary, "## Use"]
    for use in card.uses:
        parts += [f"### {use.tool}", *_use(use)]
    for title, rows in card.tables.items():
        known = [(name, value) for name, value in rows.items() if value not in (None, "")]
        if known:
            parts += [f"## {title}", _table(("", ""), known)]
    parts += ["## Files", _table(("file", "bytes", "sha256"), [(f.name, f.size_bytes, f.sha256) for f in card.files])]  # fmt: skip
    parts += [f"## {card.reproduce.tool}", *_use(card.reproduce), "## Licence", _LICENCE]
    return "\n\n".join(parts) + "\n"


_LICENCE = (
    "The base model's licence applies (Mochi-1: Apache-2.0), and that of the clips it was trained with. "
    "Made with mochi-operator."
)


def _front_matter(card: Card) -> str:
    fields: dict[str, Any] = {
        "license": BASE_LICENCE,
        "base_model": HUB_NAMES.get(card.preset, card.preset),
        **({"base_model_relation": card.relation} if card.relation else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-video",
        "tags": ["text-to-video", "mochi", *card.tags],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---"


def _use(use: Use) -> list[str]:
    return [use.text, fenced(use.code, use.language)] if use.code else [use.text]


def fenced(code: str, language: str) -> str:
    """A block of code, whatever backticks it has."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    """A value as text that no table and no HTML takes for its own."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"([|\\`*\[\]])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")
