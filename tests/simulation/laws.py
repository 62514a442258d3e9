"""What must hold after every step, and what has really happened, to judge the ends by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mochi_api import identity
from mochi_api.outcomes import DISRUPTIONS, ROWS, Reason
from mochi_api.runfile import PREVIEW
from mochi_operator.cluster import CONFIGMAPS, FINETUNES, JOBS, PODS, PYTORCHJOBS
from tests.simulation.controllers import children
from tests.simulation.kernel import Kernel
from tests.simulation.nodes import Nodes, Runtime
from tests.simulation.shards import Shard
from tests.simulation.store import Object, Store, ended, has_condition, label, owner
from tests.simulation.trainer import Trainer

NEWS_SECONDS = 30.0
"""A pod that has begun so lately may not be known yet: calls take time."""
NEVER = 1e9
"""Later than any end."""
KEPT = 10
"""Attempts that a status keeps."""
_PHASES = {
    "Pending": 0, "Preprocessing": 1, "Starting": 2, "Training": 2, "Sampling": 3, "Succeeded": 4, "Failed": 4,
}  # fmt: skip
_CHILDREN = (JOBS.name, PYTORCHJOBS.name)

Step = tuple[str, str]
"""Uid of a run and name of a step."""


class Ledger:
    """What has really gone wrong, so that a run that fails can be asked whether it tells the truth."""

    def __init__(self) -> None:
        self.failures: dict[Step, dict[int, set[Reason]]] = {}
        """By step and attempt."""
        self.lasting: set[Reason] = set()
        """Reasons that this world gives cause for, whatever the run."""
        self.made: dict[Step, set[int]] = {}
        """Attempts whose child was created."""
        self.limits: dict[str, int] = {}
        """The smallest backoffLimit that a run ever had."""
        self.final: dict[str, set[Reason]] = {}
        """Reasons that a run's policy does not try again."""
        self.may_be_late: set[str] = set()
        """Runs with a deadline."""
        self._disrupted: set[tuple[str, str, int]] = set()

    def failed(self, uid: str, step: str, attempt: int, reason: Reason) -> None:
        """An attempt really failed for this reason."""
        self.failures.setdefault((uid, step), {}).setdefault(attempt, set()).add(reason)

    def disrupted(self, uid: str, step: str, attempt: int) -> None:
        """The cluster has taken pods of this attempt away."""
        self._disrupted.add((uid, step, attempt))

    def explains(self, uid: str, step: str, attempt: int, reason: Reason) -> bool:
        """Whether this attempt may have ended for this reason."""
        if reason is Reason.DEADLINE_EXCEEDED:
            return uid in self.may_be_late
        if reason in self.lasting or (step == PREVIEW and reason is Reason.PREEMPTED):
            return True  # the operator itself takes a preview away from a training that does not run
        if (uid, step, attempt) in self._disrupted and reason in (*DISRUPTIONS, Reason.COLLECTIVE_TIMEOUT):
            return True
        return reason in self.failures.get((uid, step), {}).get(attempt, ())

    def excuses(self, uid: str, reason: Reason) -> bool:
        """Whether a run may have failed for good with this reason."""
        if reason in self.lasting or (reason is Reason.DEADLINE_EXCEEDED and uid in self.may_be_late):
            return True
        if reason in DISRUPTIONS:
            return reason in self.final.get(uid, ())
        for (run, step), attempts in self.failures.items():
            if run != uid or step == PREVIEW or not any(reason in found for found in attempts.values()):
                continue
            spent = sum(bool(found - DISRUPTIONS) for found in attempts.values())
            if (
                not ROWS[reason].retryable
                or reason in self.final.get(uid, ())
                or spent > self.limits.get(uid, 0)
            ):
                return True
        return False


class Laws:
    """The invariants. Each is checked at the moment at which it could first be broken."""

    def __init__(self, kernel: Kernel, store: Store, nodes: Nodes, trainer: Trainer) -> None:
        self.kernel, self.store, self.nodes, self.trainer = kernel, store, nodes, trainer
        self.ledger = Ledger()
        self.wishes: dict[str, set[str]] = {}
        """Values of the annotation that asks for samples, by run."""
        self._phase: dict[str, int] = {}
        self._idle: dict[str, float] = {}
        """Since when a run's status has said that its training does not run."""
        self._honoured: dict[str, list[str]] = {}

    # Calls of the operator.

    def on_create(self, actor: str, item: Object) -> None:
        """Never two live attempts of a step, as far as objects go."""
        if item["kind"] not in _CHILDREN:
            return
        uid, step, attempt = owner(item)["uid"], label(item, identity.LABEL_STAGE), _attempt(item)
        self.ledger.made.setdefault((uid, step), set()).add(attempt)
        if (
            step == PREVIEW
            and self.kernel.seconds - self._idle.get(uid, 0.0) > NEWS_SECONDS
            and not any(
                label(other, identity.LABEL_STAGE) == "train" and not ended(other)
                for other in children(self.store, uid)
            )
        ):
            law = "samples during the training are made while it runs"
            self.kernel.violate(law, f"{item['metadata']['name']} is created")
        for other in children(self.store, uid):
            if label(other, identity.LABEL_STAGE) == step and not ended(other):
                name = other["metadata"]["name"]
                self.kernel.violate(
                    "one live attempt of a step", f"{item['metadata']['name']} is created beside {name}"
                )

    def on_delete(self, actor: str, item: Object) -> None:
        """Nothing of another owner is touched, and nothing is deleted before the status says why."""
        by = owner(item)
        name = f"{item['kind']} {item['metadata']['name']}"
        if by.get("kind") != identity.KIND or by.get("apiVersion") != identity.API_VERSION:
            self.kernel.violate("nothing of another owner is touched", f"{name} is deleted")
            return
        run = self._run(by["uid"])
        if run is None or item["kind"] not in _CHILDREN or ended(item):
            return
        if not _finished(run) and _current(run, item):
            self.kernel.violate("no end without its reason in the status", f"{name} is deleted while it runs")

    def on_status(self, actor: str, run: Object, status: Mapping[str, Any]) -> None:
        """No status goes backwards, no attempt is lost from history, a checkpoint that is named is complete."""
        old, uid = run.get("status") or {}, run["metadata"]["uid"]
        for problem in (
            _ends_stay(old, status),
            self._phases(uid, status),
            _stages(old, status),
            _history(old.get("attempts"), status.get("attempts")),
            self._checkpoint(uid, old, status),
            self._truth(uid, status),
            self._shared(uid, status),
            self._gives_way(uid, status),
            self._previews(uid, run, status),
        ):
            if problem:
                law = "no status goes backwards, none lies"
                self.kernel.violate(law, f"{run['metadata']['name']}: {problem}")
                return

    def _phases(self, uid: str, status: Mapping[str, Any]) -> str:
        rank, before = _PHASES.get(status.get("phase", "")), self._phase.get(uid, 0)
        if rank is None:
            return ""
        self._phase[uid] = max(before, rank)
        return f"the phase goes back to {status['phase']}" if rank < before else ""

    def _checkpoint(self, uid: str, old: Mapping[str, Any], status: Mapping[str, Any]) -> str:
        latest, before = _latest(status), _latest(old)
        if latest is None:
            return "" if before is None else "the latest checkpoint is forgotten"
        if before is not None and latest < before:
            return f"the latest checkpoint goes back from {before} to {latest}"
        work = self.trainer.works.get(uid)
        if work is None or not work.checkpoints.get(latest, (0, False))[1]:
            return f"checkpoint {latest} is not complete"
        return ""

    def _truth(self, uid: str, status: Mapping[str, Any]) -> str:
        if not _holds(status, "Succeeded"):
            return ""
        work = self.trainer.works.get(uid)
        made = status.get("artifacts") or {}
        if work is None or not work.trained:
            return "Succeeded, but nothing was trained"
        if work.artifact() not in (made.get("loraURI"), made.get("weightsURI")):
            return f"Succeeded, but the artifact is {made}"
        return ""

    def _shared(self, uid: str, status: Mapping[str, Any]) -> str:
        """A stage of several pods has succeeded when none is at work, with the result of the first; no clip is told that is not there."""
        work = self.trainer.works.get(uid)
        for stage in status.get("stages") or ():
            name = stage["name"]
            share = work.shares.get(name) if work is not None else None
            if share is None:
                continue
            if stage["state"] != "Succeeded":
                if not stage.get("cacheKey") and stage.get("itemsDone", 0) > len(share.made):
                    return f"{name} tells of {stage['itemsDone']} clips, {len(share.made)} are there"
                continue
            if not share.whole or not share.written:
                return f"{name} is called Succeeded, but not all of it is there"
            if stage.get("cacheKey") != f"key-{name}":
                return f"{name} has succeeded with the key {stage.get('cacheKey')!r}, which is not the first shard's"
            working = [item.name for item in self.nodes.running() if self._is_shard(item, uid, name)]
            if working:
                return f"{name} is called Succeeded while {working} work"
        return ""

    def _gives_way(self, uid: str, status: Mapping[str, Any]) -> str:
        """While the training does not run, no samples of it are made."""
        entries, own = status.get("attempts") or [{}], _histories(status).get(PREVIEW, [])
        if entries[0].get("runningTime") and not entries[0].get("reason"):
            self._idle[uid] = NEVER
        elif self._idle.get(uid, NEVER) == NEVER:
            self._idle[uid] = self.kernel.seconds
        if self._idle[uid] != NEVER and own and not own[0].get("reason"):
            return f"the training does not run, and preview {own[0]['number']} does"
        return ""

    def _previews(self, uid: str, run: Object, status: Mapping[str, Any]) -> str:
        """Samples that are named are of a checkpoint, and no wish is honoured twice."""
        told = status.get("previews") or {}
        work, asked = self.trainer.works.get(uid), told.get("asked", "")
        for item in told.get("made") or ():
            if work is None or not work.checkpoints.get(item["step"], (0, False))[1]:
                return f"samples of step {item['step']} are named, of which there is no checkpoint"
        honoured = self._honoured.setdefault(uid, [])
        if asked and asked not in honoured[-1:]:
            if asked in honoured or asked not in self.wishes.get(uid, ()):
                return f"the wish {asked!r} is honoured, after {honoured}"
            honoured.append(asked)
        every = run["spec"]["sampling"].get("everySteps", 0)
        own = _histories(status).get(PREVIEW, ())
        made = sum(entry.get("reason") == Reason.COMPLETED for entry in own)
        if not every and made > len(honoured):
            return f"{made} previews are made for the wishes {honoured}"
        return ""

    def _is_shard(self, runtime: Runtime, uid: str, step: str) -> bool:
        """Whether it is a pod of this step that the operator can know to be at work: none that has been told to end."""
        mine = runtime.words.get("run-uid") == uid and label(runtime.pod, identity.LABEL_STAGE) == step
        program = runtime.program
        begun = program.begun_at if isinstance(program, Shard) else self.kernel.seconds
        job = self._parent(runtime)
        told = (
            runtime.was_lost or runtime.terminating or job is None or "deletionTimestamp" in job["metadata"]
        )
        return mine and not told and self.kernel.seconds - begun > NEWS_SECONDS

    # Programs.

    def on_run(self, runtime: Runtime) -> None:
        """A container starts: with its own run's file, and as the only attempt of its step.

        A call that was under way when a person deleted the run may make a child of a run that is no more; nobody can
        prevent that, and it is collected.
        """
        child, step = owner(runtime.pod)["uid"], label(runtime.pod, identity.LABEL_STAGE)
        uid = self._uid_of_run_file(runtime)
        runtime.words["run-uid"] = uid
        if self._run(uid) is None:
            return
        for other in self.nodes.running():
            if other is runtime or owner(other.pod)["uid"] == child or other.words.get("run-uid") != uid:
                continue
            if label(other.pod, identity.LABEL_STAGE) == step and not other.was_lost:
                self.kernel.violate("one live attempt of a step", f"{runtime.name} runs beside {other.name}")

    def _uid_of_run_file(self, runtime: Runtime) -> str:
        """The run whose ConfigMap is mounted; it must be the run that owns the child, and of this attempt."""
        meta = runtime.pod["metadata"]
        volumes = runtime.pod["spec"].get("volumes") or ()
        name = next(item["configMap"]["name"] for item in volumes if "configMap" in item)
        mounted = self.store.get(CONFIGMAPS.name, meta["namespace"], name)
        assert mounted is not None, "a pod does not start without its volumes"
        uid = str(owner(mounted).get("uid", ""))
        parent = self._parent(runtime)
        if parent is not None and owner(parent).get("uid") != uid:
            self.kernel.violate(
                "a pod has its own run's file", f"{runtime.name} mounts {name} of {uid or 'nobody'}"
            )
        elif mounted["metadata"]["labels"].get(identity.LABEL_ATTEMPT) != label(
            runtime.pod, identity.LABEL_ATTEMPT
        ):
            self.kernel.violate(
                "a pod has its own run's file", f"{runtime.name} mounts {name} of another attempt"
            )
        return uid

    def _parent(self, runtime: Runtime) -> Object | None:
        by = owner(runtime.pod)
        found = self.store.get(by["kind"], runtime.pod["metadata"]["namespace"], by["name"])
        return found if found is not None and found["metadata"]["uid"] == by["uid"] else None

    def evidence_lost(self, pod: Object, phase: str) -> None:
        """A pod is gone; unless its end is in the status already, nobody can say any more how it ended."""
        uid, step = label(pod, identity.LABEL_UID), label(pod, identity.LABEL_STAGE)
        run = self._run(uid)
        if run is None or any(
            entry["number"] == _attempt(pod) and entry.get("reason")
            for entry in _histories(run.get("status") or {}).get(step, ())
        ):
            return
        self.ledger.disrupted(uid, step, _attempt(pod))
        if phase in ("Succeeded", "Failed"):
            reason = Reason.ARTIFACTS_MISSING if phase == "Succeeded" else Reason.UNKNOWN
            self.ledger.failed(uid, step, _attempt(pod), reason)

    # The end.

    def at_the_end(self, stated: Callable[[Object], str]) -> None:
        """Everything has calmed down: each run has ended truly, and holds nothing."""
        for run in self.store.all(FINETUNES.name):
            name = run["metadata"]["name"]
            for problem in (self._end(run, stated), self._held(run), self._forgotten(run), self._untrue(run)):
                if problem:
                    self.kernel.violate("every run ends, or says what it waits for", f"{name}: {problem}")
            if outlived := self._outlived(run):
                self.kernel.violate("no run file outlives its attempt", f"{name}: {outlived}")

    def _end(self, run: Object, stated: Callable[[Object], str]) -> str:
        status, uid = run.get("status") or {}, run["metadata"]["uid"]
        if _holds(status, "Succeeded"):
            return ""
        failed = _condition(status, "Failed")
        if failed.get("status") != "True":
            return stated(run)
        reason = Reason(failed["reason"])
        if self.ledger.excuses(uid, reason):
            return ""
        known = {step: found for (owner_uid, step), found in self.ledger.failures.items() if owner_uid == uid}
        return f"Failed {reason}: {failed['message']!r}, but what happened is {_plain(known)}"

    def _held(self, run: Object) -> str:
        if not _finished(run):
            return ""
        uid = run["metadata"]["uid"]
        for child in children(self.store, uid):
            if not ended(child):
                return f"{child['metadata']['name']} is active after the end"
        for runtime in self.nodes.bound():
            if runtime.words.get("run-uid") == uid and runtime.phase == "Running" and runtime.node.reachable:
                return f"pod {runtime.name} holds its place after the end"
        return ""

    def _outlived(self, run: Object) -> str:
        """Of each step at most the newest attempt's run file is left."""
        for item in self.store.owned(CONFIGMAPS.name, run["metadata"]["uid"]):
            step, number = label(item, identity.LABEL_STAGE), _attempt(item)
            made = self.ledger.made.get((run["metadata"]["uid"], step), set())
            if any(later > number for later in made):
                return f"{item['metadata']['name']} is there, and attempts {sorted(made)} of {step} were made"
        return ""

    def _untrue(self, run: Object) -> str:
        """Each attempt in the history ended for a reason that it really had."""
        uid = run["metadata"]["uid"]
        for step, entries in _histories(run.get("status") or {}).items():
            for entry in entries:
                reason = entry.get("reason")
                if not reason or reason == Reason.COMPLETED or "does not know" in entry.get("message", ""):
                    continue
                if reason == Reason.BACKEND_DELETED and _taken_with_the_run(run, entry):
                    continue
                if not self.ledger.explains(uid, step, entry["number"], Reason(reason)):
                    known = {
                        n: sorted(found) for n, found in self.ledger.failures.get((uid, step), {}).items()
                    }
                    return f"{step} attempt {entry['number']} ended {reason}, {entry.get('message')!r}; true: {known}"
        return ""

    def _forgotten(self, run: Object) -> str:
        status, uid = run.get("status") or {}, run["metadata"]["uid"]
        for step, entries in _histories(status).items():
            known = {entry["number"] for entry in entries}
            lost = self.ledger.made.get((uid, step), set()) - known
            if lost and len(known) < KEPT:
                return f"attempts {sorted(lost)} of {step} are not in the history {sorted(known)}"
        return ""

    def _run(self, uid: str) -> Object | None:
        return next((item for item in self.store.all(FINETUNES.name) if item["metadata"]["uid"] == uid), None)


def _taken_with_the_run(run: Object, entry: Mapping[str, Any]) -> bool:
    """Whether the operator deleted the attempt since the run had failed, for the reason that stands in `Failed`."""
    failed = _condition(run.get("status") or {}, "Failed")
    said = f"because the run failed ({failed.get('reason')})"
    return failed.get("status") == "True" and said in entry.get("message", "")


def _histories(status: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The attempts of each step."""
    found = {stage["name"]: stage.get("attempts") or [] for stage in status.get("stages") or ()}
    return {**found, "train": status.get("attempts") or []}


def _finished(run: Object) -> bool:
    return has_condition(run, "Succeeded") or has_condition(run, "Failed")


def finished(run: Object) -> bool:
    """Whether the run's status says that it has ended."""
    return _finished(run)


def _attempt(item: Object) -> int:
    return int(label(item, identity.LABEL_ATTEMPT) or 1)


def _current(run: Object, child: Object) -> bool:
    """Whether the status calls this child the attempt that runs."""
    status, step = run.get("status") or {}, label(child, identity.LABEL_STAGE)
    entries = status.get("attempts") or []
    if step != "train":
        stage = next((item for item in status.get("stages") or () if item["name"] == step), None)
        if stage is None or stage["state"] != "Running":
            return False
        entries = stage.get("attempts") or []
        if not entries:
            return True
    newest = entries[0] if entries else None
    return newest is not None and newest["number"] == _attempt(child) and not newest.get("reason")


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((item for item in status.get("conditions") or () if item["type"] == kind), {})


def _holds(status: Mapping[str, Any], kind: str) -> bool:
    return _condition(status, kind).get("status") == "True"


def _latest(status: Mapping[str, Any]) -> int | None:
    latest = (status.get("checkpoints") or {}).get("latest")
    return None if latest is None else int(latest["step"])


def _ends_stay(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    for kind in ("Succeeded", "Failed"):
        if _holds(old, kind) and not _holds(new, kind):
            return f"{kind} is taken back"
    if new.get("observedGeneration", 0) < old.get("observedGeneration", 0):
        return "observedGeneration goes back"
    if (new.get("training") or {}).get("attempt", 0) < (old.get("training") or {}).get("attempt", 0):
        return "the number of the attempt goes back"
    return ""


def _stages(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    now = {item["name"]: item for item in new.get("stages") or ()}
    for item in old.get("stages") or ():
        found = now.get(item["name"])
        if found is None:
            return f"stage {item['name']} is forgotten"
        again = item["name"] == PREVIEW  # it is done as often as it is asked for
        if item["state"] == "Succeeded" and found["state"] != "Succeeded" and not again:
            return f"stage {item['name']} has succeeded, and is {found['state']} again"
        problem = _history(item.get("attempts"), found.get("attempts"))
        if problem:
            return f"stage {item['name']}: {problem}"
    return ""


def _history(old: list[dict[str, Any]] | None, new: list[dict[str, Any]] | None) -> str:
    """Newest first, each number once, nothing lost but by age, an end never changed."""
    entries = {item["number"]: item for item in new or ()}
    numbers = [item["number"] for item in new or ()]
    if numbers != sorted(set(numbers), reverse=True):
        return f"the history is out of order: {numbers}"
    for item in old or ():
        found = entries.get(item["number"])
        if found is None:
            if len(numbers) < KEPT or item["number"] > numbers[-1]:
                return f"attempt {item['number']} is lost from the history {numbers}"
        elif item.get("reason") and (found.get("reason"), found.get("endTime")) != (
            item["reason"],
            item.get("endTime"),
        ):
            return f"the end of attempt {item['number']} is told anew: {found.get('reason')} for {item['reason']}"
    return ""


def _plain(known: Mapping[str, Mapping[int, set[Reason]]]) -> dict[str, dict[int, list[str]]]:
    return {step: {n: sorted(found) for n, found in attempts.items()} for step, attempts in known.items()}


def pods_of(store: Store, uid: str) -> list[Object]:
    """Pods of all children of a run."""
    return [pod for child in children(store, uid) for pod in store.owned(PODS.name, child["metadata"]["uid"])]
