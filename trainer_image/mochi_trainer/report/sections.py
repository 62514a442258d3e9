"""The sections of the report, each a function of the contents; an empty text leaves the section out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mochi_api.outcomes import Reason
from mochi_trainer.report.contents import ClipRow, Comparison, Contents, SampleVideo
from mochi_trainer.report.markup import Html, data_uri, definitions, element, joined, table
from mochi_trainer.report.plots import Line, Point, plot, smoothed
from mochi_trainer.report.record import StageRecord

Section = Callable[[Contents], str]


def results(contents: Contents) -> Html:
    """What was made, and where it lies."""
    training = contents.record("train")
    result = training.outcome.training_result if training else None
    if result is None:
        return absent("No weights yet: training has not finished.")
    name = "LoRA file" if contents.run.mode == "lora" else "Tuned weights"
    return definitions(
        [
            (name, address(result.artifact_uri)),
            ("SHA-256", element("code", result.sha256)),
            ("Size", size(result.size_bytes)),
            ("Other files", _others(training)),
            ("Last checkpoint", address(result.checkpoint_uri)),
            ("Samples", joined(*(element("div", address(sample.address)) for sample in contents.samples))),
            ("Folder of the run", address(contents.address)),
            ("Cache", address(contents.cache)),
        ]
    )


def _others(training: StageRecord | None) -> Html:
    """What lies beside the main file: another format, merged weights, a folder for Diffusers."""
    files = training.details.get("otherFiles", ()) if training else ()
    lines = (element("div", address(file["uri"]), f" {size(file['sizeBytes'])}") for file in files)
    return joined(*lines)


def samples(contents: Contents) -> Html:
    """The sample videos."""
    if not contents.samples:
        return absent("No samples: the stage sample has not finished.")
    return element("div", *(_sample(sample) for sample in contents.samples), class_="samples")


def training(contents: Contents) -> Html:
    """The curves and the numbers beside them."""
    lines = contents.metrics
    if not lines:
        return absent("No numbers: training has not completed a step.")
    series = {
        name: _series(contents, name) for name in ("loss", "fixedLoss", "lr", "gradNorm", "stepSeconds")
    }
    loss_lines = [
        Line(label="each step", points=series["loss"], style="faint"),
        Line(label="smoothed", points=smoothed(series["loss"]), style="main"),
    ]
    if series["fixedLoss"]:
        loss_lines.append(Line(label="fixed batch", points=series["fixedLoss"], style="second", dots=True))
    return joined(
        _numbers(series),
        plot("Loss", loss_lines, unit="mean squared error"),
        element(
            "p",
            "The loss of a step depends on the noise drawn for it, so it jumps. The fixed batch is measured with the "
            "same clips and the same noise each time: when it falls, the model learns.",
            class_="note",
        ),
        plot("Learning rate", [Line(label="", points=series["lr"], style="main")], unit="learning rate"),
        plot(
            "Gradient norm",
            [Line(label="", points=series["gradNorm"], style="main")],
            unit="norm before clipping",
        ),
    )


def dataset(contents: Contents) -> Html:
    """Each clip with its caption, and those that could not be used."""
    if not contents.clips and not contents.failures:
        return absent("No clips: the stage trim has not finished.")
    total = len(contents.clips) + len(contents.failures)
    trim = contents.record("trim")
    skipped: Sequence[str] = trim.details.get("skipped", ()) if trim else ()
    left_out = f" {len(skipped)} more without a caption were left out." if skipped else ""
    parts = [element("p", f"{len(contents.clips)} of {total} clips are used.{left_out}")]
    if contents.failures:
        parts.append(element("h3", "Not used"))
        parts.append(
            table(["clip", "why"], [[element("code", i.clip), i.message] for i in contents.failures])
        )
        parts.append(element("h3", "Used"))
    if contents.clips:
        fps = contents.run.preprocessing.fps
        rows = [_clip(row, fps) for row in contents.clips]
        parts.append(table(["pictures", "clip", "caption", "length"], rows, class_="clips"))
    return joined(*parts)


def reconstruction(contents: Contents) -> Html:
    """Whether the latents still hold the clips."""
    if not contents.comparisons:
        return absent("No clip was decoded again (preprocessing.videos.reconstructEvery).")
    note = (
        "Some clips were turned into latents and back. The upper row is the original, the lower one what the latents "
        "still hold: training cannot learn what is lost here. More dB is better; 30 dB and more looks like the original."
    )
    return joined(element("p", note, class_="note"), *(_comparison(item) for item in contents.comparisons))


def checked(contents: Contents) -> Html:
    """What the first step found, before anything was paid for; nothing of a run without that step."""
    record = contents.record("check")
    result = record.outcome.check_result if record else None
    if result is None:
        return Html("")
    warnings = [element("li", warning) for warning in result.warnings]
    return joined(
        element("h3", "May go wrong later") if warnings else "",
        element("ul", *warnings) if warnings else "",
        element("ul", *(element("li", line) for line in result.checked)),
    )


def stages(contents: Contents) -> Html:
    """How long each stage took, and what it reused."""
    if not contents.records:
        return absent("No stage has finished.")
    header = ["stage", "end", "duration", "clips", "cache", "message"]
    return table(header, [_stage(record) for record in contents.records], class_="stages")


def configuration(contents: Contents) -> Html:
    """The run file."""
    return joined(
        element("p", "Everything this run was told, defaults included.", class_="note"),
        element("pre", contents.run.to_yaml(), tabindex="0"),
    )


def versions(contents: Contents) -> Html:
    """Image and libraries of the last stage."""
    if not contents.records:
        return Html("")
    known = contents.records[-1].versions
    return definitions(
        [(name, element("code", value) if value else "not known") for name, value in known.items()]
    )


SECTIONS: Sequence[tuple[str, Section]] = (
    ("Results", results),
    ("Samples", samples),
    ("Training", training),
    ("Dataset", dataset),
    ("Reconstruction check", reconstruction),
    ("Checked first", checked),
    ("Stages", stages),
    ("Configuration", configuration),
    ("Versions", versions),
)


def absent(text: str) -> Html:
    """A sentence in place of something that is not there."""
    return element("p", text, class_="absent")


def address(uri: str) -> str:
    """An address as code; nothing for none."""
    return element("code", uri, class_="address") if uri else ""


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


def _series(contents: Contents, name: str) -> list[Point]:
    return [(line["step"], line[name]) for line in contents.metrics if name in line]


def _numbers(series: dict[str, list[Point]]) -> Html:
    fixed = [value for _, value in series["fixedLoss"] if value is not None]
    times = sorted(value for _, value in series["stepSeconds"] if value is not None)
    bad = sum(1 for _, value in series["loss"] if value is None)
    change = ""
    if len(fixed) > 1:
        change = (
            f"{fixed[0]:.4g} → {fixed[-1]:.4g} ({(fixed[-1] / fixed[0] - 1) * 100:+.1f} %)"
            if fixed[0]
            else ""
        )
    smooth = [value for _, value in smoothed(series["loss"]) if value is not None]
    facts = [
        ("Steps", f"{series['loss'][-1][0]:.0f}" if series["loss"] else ""),
        ("Loss of the fixed batch", change),
        ("Loss, smoothed", f"{smooth[-1]:.4g}" if smooth else ""),
        ("Median step", duration(times[len(times) // 2]) if times else ""),
        ("Steps without a finite loss", str(bad) if bad else ""),
    ]
    tiles = (element("div", element("b", value), element("span", name)) for name, value in facts if value)
    return element("div", *tiles, class_="tiles")


def _sample(sample: SampleVideo) -> Html:
    parts: list[str] = []
    if sample.video is not None:
        parts.append(
            element(
                "video",
                element("p", f"This browser plays no video; it lies at {sample.address}."),
                src=data_uri(sample.video, "video/mp4"),
                controls=True,
                loop=True,
                muted=True,
                playsinline=True,
                preload="auto",
                aria_label=f"sample video for the prompt: {sample.prompt}",
            )
        )
    else:
        parts.append(absent("The video is not in this page; its address is below."))
    if sample.sheet is not None:
        alt = f"frames of the sample video for the prompt: {sample.prompt}"
        parts.append(element("img", src=data_uri(sample.sheet, "image/jpeg"), alt=alt))
    seed = f"seed {sample.seed} · " if sample.seed else ""
    caption = element("figcaption", element("q", sample.prompt), element("br"), seed, address(sample.address))
    return element("figure", *parts, caption)


def _clip(row: ClipRow, fps: int) -> list[str]:
    picture: str = "–"
    if row.picture is not None:
        picture = element(
            "img",
            src=data_uri(row.picture, "image/jpeg"),
            alt=f"three frames of {row.source}",
            loading="lazy",
        )
    remarks = (element("div", remark, class_="remark") for remark in row.remarks)
    return [
        picture,
        joined(element("code", row.source), *remarks),
        row.caption or element("em", "none"),
        f"{row.frames} frames, {row.frames / fps:.2f} s",
    ]


def _comparison(item: Comparison) -> Html:
    caption = element("figcaption", element("code", item.source), f" · {item.psnr:.1f} dB")
    if item.picture is None:
        return element("figure", caption)
    alt = f"frames of {item.source} above the same frames decoded from its latents, {item.psnr:.1f} dB"
    return element("figure", element("img", src=data_uri(item.picture, "image/jpeg"), alt=alt), caption)


def _stage(record: StageRecord) -> list[str]:
    outcome, counts = record.outcome, record.outcome.stage_result
    good = outcome.reason is Reason.COMPLETED
    attempt = f" (attempt {record.attempt})" if record.attempt > 1 else ""
    clips = "–"
    if counts is not None:
        clips = f"{counts.items_done} of {counts.items_total}"
    cache = "–" if counts is None or not counts.cache_key else "reused" if counts.cache_hit else "made anew"
    key = element("code", counts.cache_key[:12], class_="key") if counts and counts.cache_key else ""
    return [
        element("code", record.stage),
        element("span", f"{outcome.reason}{attempt}", class_="good" if good else "bad"),
        duration(record.seconds),
        clips,
        joined(cache, " ", key),
        outcome.message or "–",
    ]
