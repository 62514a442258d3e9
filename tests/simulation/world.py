"""One simulated cluster from one seed: built, disturbed, calmed, judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mochi_api import identity
from mochi_api.outcomes import ROWS, Reason
from mochi_operator.cluster import FINETUNES
from tests.simulation.apiserver import Server
from tests.simulation.controllers import (
    Admission,
    GarbageCollector,
    JobController,
    PodMaker,
    TrainingOperator,
)
from tests.simulation.kernel import Kernel
from tests.simulation.laws import Laws, finished
from tests.simulation.loop import VirtualLoop
from tests.simulation.nodes import Nodes, Program, Runtime
from tests.simulation.operator_process import OperatorProcess
from tests.simulation.shards import Shard
from tests.simulation.store import Object, Store, label
from tests.simulation.telephone import Telephone
from tests.simulation.trainer import Trainer
from tests.simulation.watches import Watches

NAMESPACE = "videos"
FEWEST_EVENTS = 200
"""A world in which so little happened, since its runs were deleted or refused, gets one more run."""
LOOK_SECONDS = 10.0
LIMIT_SECONDS = 2 * 3600.0
"""Longest time to the end of all runs once the world is calm."""
SETTLING_SECONDS = 200.0
"""After the last run's end: what is to be deleted is deleted."""
QUIET_SECONDS = 300.0


class World:
    """Everything there is, and the operators in it."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.kernel = kernel = Kernel(seed, loop)
        self.store = store = Store(kernel)
        self.server = Server(kernel, store)
        self.nodes = Nodes(kernel, store, self._start, self._hurt, self._lost)
        self.trainer = Trainer(kernel, store, self.nodes.exited, self._mishap, Shard)
        self.laws = Laws(kernel, store, self.nodes, self.trainer)
        self.admission = Admission()
        maker = PodMaker(kernel, store, self.admission)
        self.jobs = JobController(kernel, store, maker)
        self.training_operator = TrainingOperator(kernel, store, maker)
        self.gc = GarbageCollector(kernel, store)
        self.telephone = Telephone(kernel, self.nodes)
        self.watches = Watches(kernel, store, self._wake)
        self.operators: list[OperatorProcess] = []
        self.skew = 0.0
        """Seconds by which the clock of the operators' machines is wrong."""
        self.another: Callable[[], object] = lambda: None
        """Submits one more run."""
        self.stated_waits: dict[str, str] = {}
        """Words that the status of a run must hold, when the run is meant to wait for ever."""
        self._names = 0
        self.server.on_create = self.laws.on_create
        self.server.on_delete = self.laws.on_delete
        self.server.on_status = self.laws.on_status
        self.server.log_of = self.telephone.log

    # What happens in it.

    def submit(self, name: str, spec: dict[str, Any]) -> Object:
        """`kubectl apply`."""
        self.kernel.note("user", f"applies {name}")
        run = self.store.add(
            {
                "apiVersion": identity.API_VERSION,
                "kind": identity.KIND,
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": spec,
            }
        )
        uid, policy = run["metadata"]["uid"], spec["runPolicy"]
        self.laws.ledger.limits[uid] = policy["backoffLimit"]
        self.laws.ledger.final[uid] = {reason for reason in ROWS if reason not in policy.get("retryOn", ROWS)}
        if policy.get("activeDeadlineSeconds") or policy.get("preRunningDeadlineSeconds"):
            self.laws.ledger.may_be_late.add(uid)
        return run

    def ask_for_samples(self) -> None:
        """`kubectl annotate` on every run, each time with a new value."""
        for run in self.runs():
            value = f"at {self.kernel.seconds:.3f}"
            self.kernel.note("user", f"asks for samples of {run['metadata']['name']}")
            self.laws.wishes.setdefault(run["metadata"]["uid"], set()).add(value)
            self.store.edit(run, meta={"annotations": {identity.ANNOTATION_SAMPLE_NOW: value}})

    def start_operator(self) -> OperatorProcess:
        """One more operator process."""
        self._names += 1
        name = f"op-{self._names}"
        self.kernel.note(name, "starts")
        process = OperatorProcess(
            self.kernel, self.server, self.telephone, name, self._operator_died, lambda: self.skew
        )
        self.operators.append(process)
        return process

    def stop_operator(self, process: OperatorProcess) -> None:
        """SIGKILL."""
        if process.alive:
            self.kernel.note(process.name, "is killed")
            process.kill()

    def alive(self) -> list[OperatorProcess]:
        """Operators that run."""
        return [item for item in self.operators if item.alive]

    def runs(self) -> list[Object]:
        """All MochiFineTunes."""
        return self.store.all(FINETUNES.name)

    def _operator_died(self) -> None:
        """Its Deployment starts another one."""
        self.kernel.later(self.kernel.between(0.5, 20), self.ensure_operator)

    def ensure_operator(self) -> None:
        """At least one operator runs."""
        if not self.alive() and not self.kernel.over.done():
            self.start_operator()

    def _wake(self, key: tuple[str, str]) -> None:
        for process in self.operators:
            process.wake(key)

    def _start(self, runtime: Runtime) -> Program:
        self.laws.on_run(runtime)
        return self.trainer.start(runtime)

    def _mishap(self, uid: str, step: str, attempt: int, reason: Reason) -> None:
        self.laws.ledger.failed(uid, step, attempt, reason)

    def _hurt(self, pod: Object, killed: bool) -> None:
        uid, step = label(pod, identity.LABEL_UID), label(pod, identity.LABEL_STAGE)
        attempt = int(label(pod, identity.LABEL_ATTEMPT) or 1)
        self.laws.ledger.disrupted(uid, step, attempt)
        if killed:
            self.laws.ledger.failed(uid, step, attempt, Reason.UNKNOWN)

    def _lost(self, pod: Object, phase: str) -> None:
        self.laws.evidence_lost(pod, phase)

    # How it ends.

    def look(self, began: float) -> None:
        """Once the world is calm: are all runs at their end?"""
        waiting = [run for run in self.runs() if not finished(run)]
        meant = all(run["metadata"]["name"] in self.stated_waits for run in waiting)
        kernel = self.kernel
        if not waiting and len(kernel.lines) < FEWEST_EVENTS:
            self.another()
            kernel.later(LOOK_SECONDS, self.look, began)
            return
        if (
            meant and (not waiting or kernel.seconds - began > 1200)
        ) or kernel.seconds - began > LIMIT_SECONDS:
            kernel.later(SETTLING_SECONDS, self._judge, bool(waiting), began)
        else:
            kernel.later(LOOK_SECONDS, self.look, began)

    def _judge(self, waiting: bool, began: float) -> None:
        if not waiting and not all(finished(run) for run in self.runs()):
            self.look(began)  # a run came meanwhile: one that was deleted, and made anew by somebody slow
            return
        self.kernel.note("judge", "looks at the end")
        self.laws.at_the_end(self._stated)
        if not waiting and not self.kernel.violations:
            self.server.calls.clear()
            self.watches.told = 0
            self.kernel.later(QUIET_SECONDS, self._quiet)
        else:
            self.kernel.end()

    def _stated(self, run: Object) -> str:
        """What is wrong with a run that has not ended: nothing when it says what it is meant to wait for."""
        status = run.get("status") or {}
        told = [
            f"{item['type']}={item['status']} {item['reason']}: {item['message']}"
            for item in status.get("conditions") or ()
        ]
        word = self.stated_waits.get(run["metadata"]["name"])
        if word is not None and any(word in text for text in told):
            return ""
        return f"it has not ended ({word or 'nothing'} keeps it), phase {status.get('phase')}: " + "; ".join(
            told
        )

    def _quiet(self) -> None:
        """A settled system makes no calls but the resync's."""
        per_sweep = 1 + len(self.runs())
        allowed = per_sweep * (QUIET_SECONDS // 60 + 1) + self.watches.told
        for process in self.alive():
            verbs = [verb for actor, verb in self.server.calls if actor == process.name]
            writes = sorted({verb for verb in verbs if verb not in ("get", "list", "log")})
            if writes or len(verbs) > allowed:
                text = f"{len(verbs)} calls in {QUIET_SECONDS:g} s, {allowed:g} allowed; writes: {writes}"
                self.kernel.violate("a settled system makes no calls", text)
        self.kernel.end()
