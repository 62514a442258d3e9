"""The sections of the report: for each the template and what it shows, a function of the contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mochi_api.outcomes import Reason
from mochi_trainer.report.clips import mappings, number
from mochi_trainer.report.contents import Contents, SampleVideo
from mochi_trainer.report.dataset import dataset
from mochi_trainer.report.plots import Line, Point, plot, smoothed
from mochi_trainer.report.record import StageRecord
from mochi_trainer.report.rendering import duration, size
from mochi_trainer.sigma_bins import names

View = Mapping[str, Any]
"""The values of a template."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page."""

    title: str
    template: str
    view: Callable[[Contents], View | None]
    """None leaves the section out."""


def results(contents: Contents) -> View:
    """What was made, and where it lies."""
    training = contents.record("train")
    others = mappings(training.details.get("otherFiles")) if training else []
    return {
        "result": training.outcome.training_result if training else None,
        "others": [(str(file.get("uri", "")), _whole_size(file.get("sizeBytes"))) for file in others],
        "lora": contents.run.mode == "lora",
        "contents": contents,
    }


def samples(contents: Contents) -> View:
    """The sample videos."""
    return {"samples": contents.samples}


def previews(contents: Contents) -> View | None:
    """For each prompt what the training made of it, step by step; nothing of a run without samples during the training."""
    rows: dict[str, list[tuple[int, SampleVideo]]] = {}
    for preview in contents.previews:
        for sample in preview.samples:
            rows.setdefault(sample.prompt, []).append((preview.step, sample))
    return {"prompts": rows} if rows else None


def training(contents: Contents) -> View:
    """The curves and the numbers beside them."""
    series = {
        name: _series(contents, name)
        for name in ("loss", "fixedLoss", "heldOutLoss", "lr", "gradNorm", "stepSeconds", "dataSeconds")
    }
    loss = [
        Line(label="each step", points=series["loss"], style="faint"),
        Line(label="smoothed", points=smoothed(series["loss"]), style="main"),
    ]
    if series["fixedLoss"]:
        loss.append(Line(label="fixed batch", points=series["fixedLoss"], style="second", dots=True))
    record = contents.record("train")
    if series["heldOutLoss"]:
        loss.append(Line(label="held out", points=series["heldOutLoss"], style="third", dots=True))
    rate = [Line(label="", points=series["lr"], style="main")]
    norm = [Line(label="", points=series["gradNorm"], style="main")]
    return {
        "steps": len(contents.metrics),
        "numbers": [*_numbers(series), *_best(contents)],
        "grace": str(record.details.get("graceWarning", "")) if record else "",
        "held_out": bool(series["heldOutLoss"]),
        "loss": plot("Loss", loss, unit="mean squared error"),
        "rate": plot("Learning rate", rate, unit="learning rate"),
        "by_sigma": _by_sigma(contents),
        "norm": plot("Gradient norm", norm, unit="norm before clipping"),
    }


def reconstruction(contents: Contents) -> View:
    """Whether the latents still hold the clips: the worst with pictures, all in a table."""
    return {
        "comparisons": contents.comparisons,
        "pictured": [item for item in contents.comparisons if item.picture is not None],
    }


def checked(contents: Contents) -> View | None:
    """What the first step found, before anything was paid for; nothing of a run without that step."""
    record = contents.record("check")
    result = record.outcome.check_result if record else None
    return None if result is None else {"result": result}


def stages(contents: Contents) -> View:
    """How long each stage took, and what it reused."""
    return {"stages": [_stage(record) for record in contents.records]}


def configuration(contents: Contents) -> View:
    """The run file, with what it leaves to the defaults."""
    wire = contents.run.to_wire()
    return {"yaml": yaml.safe_dump(wire, sort_keys=False, allow_unicode=True)}


def versions(contents: Contents) -> View | None:
    """Image and libraries of the last stage."""
    return {"versions": contents.records[-1].versions} if contents.records else None


SECTIONS: Sequence[Section] = (
    Section("Results", "results.html", results),
    Section("Samples", "samples.html", samples),
    Section("Samples during training", "previews.html", previews),
    Section("Training", "training.html", training),
    Section("Dataset", "dataset.html", dataset),
    Section("Reconstruction check", "reconstruction.html", reconstruction),
    Section("Checked first", "checked.html", checked),
    Section("Stages", "stages.html", stages),
    Section("Configuration", "configuration.html", configuration),
    Section("Versions", "versions.html", versions),
)


def _whole_size(value: object) -> str:
    found = number(value)
    return "" if found is None else size(int(found))


def _series(contents: Contents, name: str) -> list[Point]:
    return [(line["step"], line[name]) for line in contents.metrics if name in line]


def _by_sigma(contents: Contents) -> Sequence[tuple[str, str]]:
    """The loss at each share of noise: the mean over the second half of the steps, for which there are numbers."""
    lines = [line["lossBySigma"] for line in contents.metrics if line.get("lossBySigma")]
    found: list[tuple[str, str]] = []
    for place, name in enumerate(names()):
        column = [line[place] for line in lines[len(lines) // 2 :] if place < len(line)]
        values = [value for value in column if value is not None]
        if values:
            found.append((name, f"{sum(values) / len(values):.4g}"))
    return found


def _best(contents: Contents) -> list[tuple[str, str]]:
    record = contents.record("train")
    result = record.outcome.training_result if record else None
    if result is None or result.best_step is None or result.best_held_out_loss is None:
        return []
    found = [
        (
            "Best checkpoint, by the held out clips",
            f"step {result.best_step}: {result.best_held_out_loss:.4g}",
        )
    ]
    if result.overfits_from_step is not None:
        found.append(("Overfits", f"from step {result.overfits_from_step} on"))
    return found


def _change(points: list[Point]) -> str:
    known = [value for _, value in points if value is not None]
    if len(known) < 2 or not known[0]:  # a change has two ends
        return ""
    return f"{known[0]:.4g} → {known[-1]:.4g} ({(known[-1] / known[0] - 1) * 100:+.1f} %)"


def _numbers(series: Mapping[str, list[Point]]) -> list[tuple[str, str]]:
    """Names and values; those with an empty value are left out."""
    times = sorted(value for _, value in series["stepSeconds"] if value is not None)
    bad = sum(1 for _, value in series["loss"] if value is None)
    waited = [value for _, value in series["dataSeconds"] if value is not None]
    smooth = [value for _, value in smoothed(series["loss"]) if value is not None]
    facts = [
        ("Steps", f"{series['loss'][-1][0]:.0f}" if series["loss"] else ""),
        ("Loss of the fixed batch", _change(series["fixedLoss"])),
        ("Loss of the held out clips", _change(series["heldOutLoss"])),
        ("Loss, smoothed", f"{smooth[-1]:.4g}" if smooth else ""),
        ("Median step", duration(times[len(times) // 2]) if times else ""),
        ("Waited for clips", f"{sum(waited) / sum(times):.1%} of the time" if waited and sum(times) else ""),
        ("Steps without a finite loss", str(bad) if bad else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _stage(record: StageRecord) -> View:
    counts = record.outcome.stage_result
    keyed = counts is not None and counts.cache_key
    return {
        "stage": record.stage,
        "reason": record.outcome.reason,
        "good": record.outcome.reason is Reason.COMPLETED,
        "attempt": record.attempt,
        "seconds": record.seconds,
        "clips": f"{counts.items_done} of {counts.items_total}" if counts is not None else "–",
        "cache": ("reused" if counts.cache_hit else "made anew") if counts and keyed else "–",
        "key": counts.cache_key[:12] if counts else "",
        "message": record.outcome.message or "–",
    }
