"""The report as one self-contained HTML document: no network, no script, readable in light, dark and print."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources

from mochi_api.outcomes import ROWS
from mochi_api.runfile import STAGES, RunFile
from mochi_trainer.report.contents import Contents, gather
from mochi_trainer.report.markup import Html, element, joined
from mochi_trainer.report.sections import SECTIONS
from mochi_trainer.storage import Store

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
"""Lets the browser itself refuse anything that is not in the page."""


def render(store: Store, run: RunFile, cache: Store) -> str:
    """The report of the run whose folder is `store`; raises what the stores raise."""
    return page(gather(store, run, cache), now=datetime.now(UTC))


def page(contents: Contents, *, now: datetime) -> str:
    """The document. The same contents and time give the same text."""
    run = contents.run
    name = f"{run.run.namespace}/{run.run.name}"
    style = resources.files("mochi_trainer.report").joinpath("style.css").read_text(encoding="utf-8")
    head = joined(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", f"{run.run.name}: fine-tuning report"),
        element("style", Html(style)),
    )
    shown = [(title, body) for title, section in SECTIONS if (body := section(contents))]
    links = element(
        "nav",
        *(element("a", title, href=f"#{_anchor(title)}") for title, _ in shown),
        aria_label="Sections",
    )
    parts = (element("section", element("h2", title), body, id=_anchor(title)) for title, body in shown)
    footer = element(
        "footer",
        f"Written {now:%Y-%m-%d %H:%M:%S} UTC by mochi-operator; run {run.run.uid}, attempt {run.run.attempt}.",
    )
    header = element(
        "header", element("p", "Fine-tuning report", class_="kicker"), element("h1", name), _facts(run)
    )
    body = element("body", header, _verdict(contents), links, element("main", *parts), footer)
    return f"<!doctype html>\n{element('html', element('head', head), body, lang='en')}\n"


def _facts(run: RunFile) -> Html:
    preprocessing, training = run.preprocessing, run.training
    mode = f"LoRA rank {training.lora.rank}" if training.lora else "all weights"
    texts = (
        run.model.preset,
        mode,
        f"{preprocessing.frames} frames, {preprocessing.width}×{preprocessing.height}, {preprocessing.fps} fps",
        f"{training.steps} steps",
    )
    return element("p", " · ".join(texts), class_="facts")


def _verdict(contents: Contents) -> Html:
    """How the run ended, why, and whose move it is."""
    failed = contents.failed
    if failed is not None:
        reason, action = failed.outcome.reason, failed.outcome.action
        kind, title = ("waiting", "Stopped") if ROWS[reason].retryable else ("failed", "Failed")
        at = f" at step {failed.outcome.step}" if failed.outcome.step is not None else ""
        message = f"In the stage {failed.stage}{at}: {failed.outcome.message}"
        return _banner(kind, f"{title}: {reason}", message, action or ROWS[reason].action)
    done = [record.stage for record in contents.records]
    if done and done[-1] == STAGES[-1]:
        return _banner("succeeded", "Succeeded", contents.records[-1].outcome.message, None)
    finished = f"Finished so far: {', '.join(done)}." if done else "No stage has finished yet."
    return _banner("waiting", "In progress", finished, None)


def _banner(kind: str, title: str, message: str, action: str | None) -> Html:
    what = element("p", element("strong", "What to do: "), f"{action}.") if action else Html("")
    return element(
        "div", element("p", title, class_="title"), element("p", message), what, class_=f"verdict {kind}"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
