"""The reference pages, made from the types: every field, every reason, of runs and of clips, every metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mochi_api import clips, identity, metrics, outcomes, rules
from mochi_codegen import schema

_NOTE = "<!-- Made by `make sync` from crds/mochi_api; do not edit. -->\n"


def finetune_page() -> str:
    """All fields of spec and status, and the rules that span fields."""
    lines = [
        _NOTE,
        f"# {identity.KIND}",
        "",
        f"`apiVersion: {identity.API_VERSION}`, short name `{identity.SHORT_NAME}`.",
        "",
    ]
    lines += ["## Rules", "", "The API server refuses an object that breaks one of them.", ""]
    lines += [f"- `{rule.path}`: `{rule.cel}`" for rule in rules.RULES]
    lines += [f"- Immutable: {', '.join(f'`spec.{field}`' for field in rules.IMMUTABLE)}."]
    for title, node in (("spec", schema.spec_schema()), ("status", schema.status_schema())):
        lines += [
            "",
            f"## {title}",
            "",
            "| field | type | default | limits | meaning |",
            "|---|---|---|---|---|",
        ]
        lines += [_row(path, child, required) for path, child, required in _fields(title, node)]
    return "\n".join(lines) + "\n"


def _fields(path: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    required = set(node.get("required", ()))
    for name, child in node.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, child, name in required
        yield from _fields(below, child)
        if "items" in child:
            yield from _fields(f"{below}[]", child["items"])


def _row(path: str, node: Mapping[str, Any], required: bool) -> str:
    default = (
        "**required**"
        if required
        else _code(node["default"])
        if node.get("default") not in (None, {})
        else ""
    )
    cells = (f"`{path}`", str(node.get("type", "")), default, _limits(node), str(node.get("description", "")))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _code(value: object) -> str:
    return f"`{value}`"


def _limits(node: Mapping[str, Any]) -> str:
    parts = []
    if "enum" in node:
        parts.append(", ".join(f"`{value}`" for value in node["enum"]))
    for key, words in (("minimum", "at least"), ("maximum", "at most"), ("multipleOf", "a multiple of"),
                       ("maxItems", "items at most"), ("maxLength", "characters at most")):  # fmt: skip
        if key in node and "enum" not in node:
            parts.append(f"{words} {node[key]}")
    parts += [rule["message"].removeprefix("must be ") for rule in node.get("x-kubernetes-validations", ())]
    return "; ".join(parts)


def reasons_page() -> str:
    """The table of outcomes."""
    lines = [_NOTE, "# Reasons and exit codes", ""]
    lines += [
        "A run, a stage or an attempt ends with one of these. The same words stand in conditions, Events and the report.",
        "",
    ]
    lines += ["| reason | exit code | tried again | what to do |", "|---|---|---|---|"]
    for row in outcomes.TABLE:
        code = "" if row.exit_code is None else str(row.exit_code)
        lines.append(f"| `{row.reason}` | {code} | {'yes' if row.retryable else 'no'} | {row.action} |")
    return "\n".join(lines) + "\n"


def clips_page() -> str:
    """Why a clip cannot be used, and what is worth knowing of one that can."""
    lines = [
        _NOTE,
        "# Clips",
        "",
        "A clip that cannot be used is listed with one of these reasons in the report, in the status "
        "(`status.stages[].failures`) and in an Event; `preprocessing.maxFailedItemsPercent` says how many may be. "
        "[What counts as a clip](../explanation/preprocessing.md#what-counts-as-a-clip) has the rules.",
        "",
        "| reason | when | what to do |",
        "|---|---|---|",
    ]
    lines += [f"| `{row.reason}` | {row.meaning} | {row.cure} |" for row in clips.CLIP_TABLE]
    lines += ["", "## Warnings", "", "The clip is used; the report shows what is worth a look.", ""]
    lines += ["| warning | when |", "|---|---|"]
    lines += [f"| `{warning}` | {meaning} |" for warning, meaning in clips.WARNING_MEANINGS.items()]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """All metrics."""
    lines = [_NOTE, "# Metrics", ""]
    for title, table in (
        ("Training pods (port 9464)", metrics.TRAINER_METRICS),
        ("Operator (port 8080)", metrics.OPERATOR_METRICS),
    ):
        lines += [f"## {title}", "", "| name | type | labels | meaning |", "|---|---|---|---|"]
        lines += [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |" for m in table]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
