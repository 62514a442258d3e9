"""The demo from the first clip to the last line, on a site that is ready."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demo import clips, embeddings, evidence, example, results, watch
from demo.deadline import Deadline, DeadlineError
from demo.kubectl import KubectlError
from demo.sites import CLIPS, Site
from demo.steps import Steps
from demo.view import duration, view_for
from mochi_api import identity, layout
from mochi_api.status import FineTuneStatus


class RunError(Exception):
    """The MochiFineTune did not succeed; the message says why, what to do, and where the logs are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the user chose."""

    root: Path
    """The checkout."""
    mode: str
    out: Path
    gpus_per_pod: int = 0
    """Train in one pod with so many GPUs; 0: as the example says."""
    kept_embeddings: Path | None
    """Folder of embeddings between two demos; None: none are kept."""


def run(site: Site, options: Options, deadline: Deadline, steps: Steps) -> list[results.Result]:
    """Upload the clips, apply the example, watch it, fetch what it made.

    Raises RunError when it fails; DeadlineError when the time is up.
    """
    with steps.step(f"three real clips and their captions in s3://{site.bucket.name}/{CLIPS}/"):
        site.bucket.create()
        clips.upload(site.bucket, CLIPS, clips.bundled())
    _bring_back_embeddings(site, options, steps)
    manifest = example.placed(example.read(options.root / "examples", options.mode), site)
    manifest = example.with_gpus(manifest, options.gpus_per_pod)
    name = apply(site, manifest, deadline)
    changed = f" with {example.changes(options.mode, options.gpus_per_pod)}" if options.gpus_per_pod else ""
    steps.line(f"✓ kubectl apply -f examples/{example.FILES[options.mode]}{changed}")
    status = _ended_well(site, name, options, deadline, steps)
    made = collect(site, status, options.out, steps)
    if options.kept_embeddings is not None:
        embeddings.save(site.bucket, options.kept_embeddings, status.stages)
    report(status, made, steps)
    return made


def _ended_well(site: Site, name: str, options: Options, deadline: Deadline, steps: Steps) -> FineTuneStatus:
    """The status of the run that succeeded; raise RunError otherwise, with the logs saved."""
    try:
        status = observe(site, name, deadline, steps)
    except (DeadlineError, KubectlError) as error:
        raise RunError(f"{error}\n{_logs(site, options)}") from error
    ended = watch.end(status)
    if ended is None or not ended.succeeded:
        raise RunError(f"{failure(name, ended)}\n{_logs(site, options)}")
    return status


def _bring_back_embeddings(site: Site, options: Options, steps: Steps) -> None:
    if options.kept_embeddings is None:
        return
    size = embeddings.load(site.bucket, options.kept_embeddings)
    if size:
        steps.line(
            f"✓ embeddings of an earlier demo ({size / 1e6:.1f} MB from {options.kept_embeddings}); `make clean` forgets them"
        )


def apply(site: Site, manifest: dict[str, Any], deadline: Deadline) -> str:
    """Create the MochiFineTune anew, removing one of the same name first; return its name."""
    name: str = manifest["metadata"]["name"]
    plural = f"{identity.PLURAL}.{identity.GROUP}"
    limit = deadline.left("removal of the earlier run", 90)
    flags = (f"--timeout={limit:.0f}s",)
    site.kubectl.run("delete", plural, name, "--ignore-not-found", *flags, seconds=limit + 5)
    # A deletion in the foreground would not wait for them: they do not block the deletion of their owner.
    children = ("jobs,pytorchjobs,pods", "-l", f"{identity.LABEL_FINETUNE}={name}")
    site.kubectl.run("wait", "--for=delete", *children, *flags, seconds=limit + 5)
    site.kubectl.apply(manifest)
    return name


def observe(site: Site, name: str, deadline: Deadline, steps: Steps) -> FineTuneStatus:
    """Show the run until it ends, and return its last status."""
    status = FineTuneStatus()
    with view_for(steps.console) as view:
        for seen in watch.follow(site.kubectl, name, deadline):
            view.show(seen, deadline.elapsed(), datetime.now(UTC))
            status = seen.status
    return status


def collect(site: Site, status: FineTuneStatus, out: Path, steps: Steps) -> list[results.Result]:
    """Bring what the run made to `out`."""
    if status.artifacts is None or not status.artifacts.run_uri:
        raise RunError(
            "the run succeeded but its status names no artifacts; this is a defect of the operator"
        )
    with steps.step(f"results in {out}/"):
        return results.fetch(site.bucket, status.artifacts, out)


def failure(name: str, ended: watch.End | None) -> str:
    """What went wrong and whose move it is."""
    if ended is None:
        return f"MochiFineTune {name} ended without a verdict"
    return (
        f"MochiFineTune {name} failed: {ended.reason}\n"
        f"  what:       {ended.message}\n"
        f"  what to do: {ended.action}"
    )


def _logs(site: Site, options: Options) -> str:
    """Save what pods, operator and Events said, and say where."""
    folder = options.out / "logs"
    evidence.collect(site.kubectl, site.operator_namespace, folder)
    return f"  logs:       {folder}/ (every pod, the operator, Events, describe)"


def size_words(size: int) -> str:
    """Bytes for people."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"


def report(status: FineTuneStatus, made: list[results.Result], steps: Steps) -> None:
    """Say what was made, where it lies, and how the loss went."""
    steps.line()
    steps.line("what was made:")
    for result in made:
        steps.line(f"  {result.what:<28} {size_words(result.size):>8}  {result.path}")
    steps.line()
    for line in summary(status, made):
        steps.line(line)


def summary(status: FineTuneStatus, made: list[results.Result]) -> list[str]:
    """The course of the loss and which stages were reused, in sentences."""
    lines = []
    course = next((results.fixed_losses(item.path) for item in made if item.path.name == layout.METRICS), [])
    if len(course) >= 2:
        lines.append(
            f"loss of the same fixed batch before and after training: {course[0]:.4f} and {course[-1]:.4f}"
        )
    reused = [stage.name for stage in status.stages if stage.cache_hit]
    if reused:
        lines.append(f"reused from an earlier run, not computed again: {', '.join(reused)}")
    return lines


def remove(site: Site, mode: str, root: Path) -> None:
    """Delete the MochiFineTune, in a cluster that is not ours to stop."""
    name = example.read(root / "examples", mode)["metadata"]["name"]
    try:
        site.kubectl.run(
            "delete", f"{identity.PLURAL}.{identity.GROUP}", name, "--ignore-not-found", "--wait=false"
        )
    except KubectlError as error:
        raise RunError(f"could not delete MochiFineTune {name}: {error}") from error


def next_commands(site: Site, made: list[results.Result], *, mode: str, kept: bool) -> list[str]:
    """What one may type now."""
    page = next((result.path for result in made if result.path.suffix == ".html"), None)
    lines = [] if page is None else [f"open the report:  xdg-open {page}"]
    if kept:
        around = [
            f"all of it and the checkpoints: s3://{site.bucket.name}/runs/",
            "the cluster is still up; look around:",
            *(f"  {line}" for line in site.look_around),
        ]
        return [*lines, *around, f"stop it:          {site.stop}"]
    other = ("all weights:      make demo MODE=full", "a LoRA:           make demo")[mode == "full"]
    return [*lines, "look around:      make demo KEEP=1", other]


def took(deadline: Deadline) -> str:
    """How long it all was."""
    return duration(deadline.elapsed())
