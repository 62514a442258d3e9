"""What one version of this repository says: run by `pinned.Checkout.ask` with that version's packages first on the path.

    python answers.py QUESTION < document > answer

Only what every version has is used here, and one question is answered in one process.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from mochi_api import runfile, status
from mochi_api.identity import STAGE_CONTAINER
from mochi_api.outcomes import ROWS, Item, Outcome, Reason, SampleResult, StageResult, TrainingResult
from mochi_api.spec import FineTuneSpec

Document = dict[str, Any]
STAGE, ATTEMPT = "mochi.finetune.dev/stage", "mochi.finetune.dev/attempt"
TURNS = 80
LOOKS = 3
"""Passes of the operator that takes over before anything else happens in the cluster."""


def defaults(specs: list[Document]) -> Document:
    """The schema of the spec, and each spec with everything filled in that it leaves out."""
    filled = [FineTuneSpec.model_validate(spec).model_dump(mode="json", by_alias=True) for spec in specs]
    return {"schema": FineTuneSpec.model_json_schema(by_alias=True), "filled": filled}


def run_files(specs: dict[str, Document]) -> dict[str, str]:
    """The run file of each step of each spec, as the operator hands it to the pods; by `spec/step`."""
    return {case: files["run.yaml"] for case, files in mounted_files(specs).items()}


def mounted_files(specs: dict[str, Document]) -> dict[str, dict[str, str]]:
    """The run file and what is mounted beside it, by their names; as `run_files`."""
    return {
        f"{name}/{config['metadata']['labels'][STAGE]}": config["data"]
        for name, spec in specs.items()
        for config in asyncio.run(_succeeded(spec)).cluster.all("ConfigMap")
    }


def meanings(texts: dict[str, str]) -> dict[str, Any]:
    """What a pod of this version's trainer understands of each run file; a text when it refuses."""
    return {name: _meaning(text) for name, text in texts.items()}


def read_outcomes(lines: list[Document]) -> list[Document | None]:
    """What the operator reads in a termination message: {"line", "code"} each; None when it reads nothing."""
    return [_read(item["line"]) for item in lines]


def verdicts(lines: list[Document]) -> list[Document]:
    """What the operator makes of a container that failed: reason, and whether it is tried again."""
    return [_verdict(item) for item in lines]


def write_outcomes(_nothing: object) -> dict[str, str]:
    """The line of every end that is a success, with every field that the trainer can fill in."""
    from mochi_trainer import ending
    from mochi_trainer.jobs.finished import Finished

    item = Item(clip="a.mp4", message="too short")
    results = {
        "stage": StageResult(
            cache_key="k", cache_hit=True, items_total=3, items_done=2, items_failed=1, failures=[item]
        ),
        "train": TrainingResult(
            artifactURI="s3://b/lora.safetensors", sha256="ab", size_bytes=7, final_step=20, final_loss=0.25,
            checkpointURI="s3://b/checkpoints/step-000020",
        ),
        "other rank": None,
        "sample": SampleResult(sampleURIs=["s3://b/a.mp4"], reportURI="s3://b/report.html"),
    }  # fmt: skip
    made = {
        name: ending.success(Finished(result=result, message="done", failures=[item]), rank=0)
        for name, result in results.items()
    }
    return {name: _with_report(end).to_line() for name, end in made.items()}


def _with_report(ended: Any) -> Outcome:
    """As the trainer's command line does it, once the report is stored."""
    add = getattr(ended, "with_report", None)
    outcome: Outcome = (add("s3://b/report.html") if add is not None else ended).outcome
    return outcome


def read_progress(address: str) -> Document | None:
    """What the operator makes of the answer of rank 0 at this address."""

    async def ask() -> Document | None:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            found = await _source(session)(address)
        return None if found is None else found.model_dump(mode="json", by_alias=True)

    return asyncio.run(ask())


def _source(session: Any) -> Callable[[str], Any]:
    try:
        from mochi_operator.heartbeats import HttpHeartbeats
    except ModuleNotFoundError:
        from mochi_operator.progress import HttpProgress

        return HttpProgress(session).read
    return HttpHeartbeats(session).ask


def reach(scenarios: dict[str, Document]) -> dict[str, Document]:
    """The cluster of each scenario at the moment that it names, left alone by its operator."""
    return {name: asyncio.run(_reached(scenario)) for name, scenario in scenarios.items()}


def take_over(clusters: dict[str, Document]) -> dict[str, Document]:
    """What the operator does with each cluster that another version has looked after so far."""
    return {name: asyncio.run(_taken_over(cluster)) for name, cluster in clusters.items()}


def _meaning(text: str) -> Any:
    lenient = {"strict": False} if "strict" in inspect.signature(runfile.parse).parameters else {}
    try:
        return runfile.parse(text, **lenient).model_dump(mode="json", by_alias=True)
    except runfile.RunFileError as error:
        return f"{type(error).__name__}: {error}"


def _world(spec: Document | None) -> Any:
    from tests.operator.world import World

    return World(spec)


async def _succeeded(spec: Document) -> Any:
    world = _world(spec)
    await world.until(lambda w: w.phase == "Succeeded", turns=TURNS)
    return world


def _read(line: str) -> Document | None:
    try:
        from mochi_operator.verdicts.containers import outcome
    except ModuleNotFoundError:
        from mochi_operator.policy.verdicts import outcome
    found = outcome(_pod(line, 0))
    return None if found is None else found.model_dump(mode="json", by_alias=True)


def _verdict(item: Document) -> Document:
    """As the pod's controller and kubelet tell it: the whole way from the raw pod."""
    from mochi_operator.policy.verdicts import pod_failure

    found = pod_failure(_pod(item["line"], item["code"]))
    assert found is not None, "a container with an exit code has failed"
    return {"reason": found.reason.value, "again": ROWS[found.reason].retryable}


def _pod(line: str, code: int) -> Any:
    from mochi_operator import observe

    ended = {"exitCode": code, "message": line, "reason": "Error" if code else "Completed"}
    return observe.pod(
        {
            "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": STAGE_CONTAINER}]},
            "status": {
                "phase": "Failed" if code else "Succeeded",
                "containerStatuses": [{"name": STAGE_CONTAINER, "state": {"terminated": ended}}],
            },
        }
    )


async def _reached(scenario: Document) -> Document:
    world = _world(scenario.get("spec"))
    world.cluster.absent = set(scenario.get("absent", ()))
    world.script = _script(scenario)
    await world.until(lambda w: _is_there(w, scenario), turns=TURNS)
    await world.turn()
    return _told(world)


def _told(world: Any) -> Document:
    return {
        "now": world.clock.now.isoformat(),
        "objects": [_named(item) for item in copy.deepcopy(list(world.cluster.objects.values()))],
        "absent": sorted(world.cluster.absent),
    }


def _script(scenario: Document) -> Callable[[str, int, int], Any]:
    """Ends of the containers: those listed fail, the one held runs on, all others do well."""
    from tests.operator.world import End, well

    held = (scenario["hold"]["stage"], scenario["hold"].get("attempt", 1)) if "hold" in scenario else None
    failing = {(item["stage"], item.get("attempt", 1)): item for item in scenario.get("fail", ())}

    def script(stage: str, attempt: int, rank: int) -> Any:
        bad = failing.get((stage, attempt))
        if bad is not None:
            reason = Reason(bad["reason"])
            return End(ROWS[reason].exit_code or 1, Outcome(reason=reason, message="made to fail", step=4))
        return None if (stage, attempt) == held else well(stage, attempt, rank)

    return script


def _is_there(world: Any, scenario: Document) -> bool:
    if world.phase != scenario["phase"]:
        return False
    held = scenario.get("hold")
    return held is None or any(
        pod["metadata"]["labels"][STAGE] == held["stage"]
        and pod["metadata"]["labels"][ATTEMPT] == str(held.get("attempt", 1))
        and pod["status"]["phase"] == "Running"
        for pod in world.cluster.all("Pod")
    )


def _named(item: Document) -> Document:
    """A kubelet tells the name of each container; the world of an earlier version leaves it out."""
    for told in (item.get("status") or {}).get("containerStatuses") or ():
        told.setdefault("name", item["spec"]["containers"][0]["name"])
    return item


async def _taken_over(cluster: Document) -> Document:
    world = _world(None)
    world.cluster.objects = {
        (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]): item
        for item in cluster["objects"]
    }
    world.cluster._version = 1_000_000
    world.clock.now = datetime.fromisoformat(cluster["now"])
    world.cluster.absent = set(cluster["absent"])
    world.cluster.writes.clear()
    world.restart()
    for _ in range(LOOKS):
        await world.turn()
    looked = {
        **_told(world),
        "status": copy.deepcopy(world.status),
        "phase": world.phase,
        "writes": _of_children(world.cluster.writes),
    }
    world.cluster.writes.clear()
    world.cluster.absent.clear()
    await world.until(lambda w: w.phase in ("Succeeded", "Failed"), turns=TURNS)
    return {**looked, "end": {"status": world.status, "writes": _of_children(world.cluster.writes)}}


def _of_children(writes: list[tuple[str, str, str]]) -> list[list[str]]:
    return [list(write) for write in writes if write[1] in ("Job", "PyTorchJob", "ConfigMap")]


def unreadable(statuses: dict[str, Document]) -> dict[str, list[str]]:
    """Top-level fields of each status that this version's operator does not read."""
    return {name: _unreadable(raw) for name, raw in statuses.items()}


def _unreadable(raw: Document) -> list[str]:
    from mochi_operator import observe

    found: status.FineTuneStatus = observe.status({"status": raw})
    return sorted(set(raw) - set(found.model_dump(mode="json", by_alias=True, exclude_unset=True)))


QUESTIONS: Mapping[str, Callable[[Any], Any]] = {
    answer.__name__: answer
    for answer in (
        defaults, run_files, mounted_files, meanings, read_outcomes, verdicts, write_outcomes, read_progress, reach, take_over,
        unreadable,
    )
}  # fmt: skip

if __name__ == "__main__":
    json.dump(QUESTIONS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
