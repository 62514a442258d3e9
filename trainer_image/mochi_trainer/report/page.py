"""The report as one self-contained HTML document: no network, readable in light, dark, print and without its script."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from mochi_api.outcomes import ROWS
from mochi_api.runfile import STAGES, RunFile
from mochi_trainer.report.contents import Contents, gather
from mochi_trainer.report.rendering import asset, rendered
from mochi_trainer.report.sections import SECTIONS
from mochi_trainer.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How the run ended, why, and whose move it is."""

    kind: str
    """Class of the style sheet: `succeeded`, `waiting`, `failed`."""
    title: str
    message: str
    action: str = ""


def render(store: Store, run: RunFile, cache: Store) -> str:
    """The report of the run whose folder is `store`; raises what the stores raise."""
    return page(gather(store, run, cache), now=datetime.now(UTC))


def page(contents: Contents, *, now: datetime) -> str:
    """The document. The same contents and time give the same text; a name that is no UTF-8 is in it with escapes."""
    script = asset("tables.js")
    shown = [(section, view) for section in SECTIONS if (view := section.view(contents)) is not None]
    sections = [
        {
            "title": section.title,
            "anchor": _anchor(section.title),
            "body": rendered(section.template, **view),
        }
        for section, view in shown
    ]
    document = rendered(
        "page.html",
        run=contents.run,
        facts=_facts(contents.run),
        verdict=_verdict(contents),
        sections=sections,
        style=asset("style.css"),
        script=script,
        policy=policy(script),
        now=now,
    )
    return document.encode("utf-8", "backslashreplace").decode()


def policy(script: str) -> str:
    """Lets the browser itself refuse what is not in the page, and every script but ours."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _facts(run: RunFile) -> list[str]:
    preprocessing, training = run.preprocessing, run.training
    others = f", {len(preprocessing.buckets)} more sizes" if preprocessing.buckets else ""
    return [
        run.model.preset,
        f"LoRA rank {training.lora.rank}" if training.lora else "all weights",
        f"{preprocessing.frames} frames, {preprocessing.width}×{preprocessing.height}, {preprocessing.fps} fps{others}",
        f"{training.steps} steps",
    ]


def _verdict(contents: Contents) -> Verdict:
    failed = contents.failed
    if failed is not None:
        reason, action = failed.outcome.reason, failed.outcome.action
        kind, title = ("waiting", "Stopped") if ROWS[reason].retryable else ("failed", "Failed")
        at = f" at step {failed.outcome.step}" if failed.outcome.step is not None else ""
        message = f"In the stage {failed.stage}{at}: {failed.outcome.message}"
        return Verdict(
            kind=kind, title=f"{title}: {reason}", message=message, action=action or ROWS[reason].action
        )
    done = [record.stage for record in contents.records]
    if done and done[-1] == STAGES[-1]:
        return Verdict(kind="succeeded", title="Succeeded", message=contents.records[-1].outcome.message)
    finished = f"Finished so far: {', '.join(done)}." if done else "No stage has finished yet."
    return Verdict(kind="waiting", title="In progress", message=finished)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
