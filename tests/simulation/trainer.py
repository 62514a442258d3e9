"""The trainer in its pods: stages that take time, a gang that steps, saves and resumes, and the ways in which it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mochi_api import identity
from mochi_api.outcomes import (
    ROWS,
    CheckResult,
    Outcome,
    Reason,
    SampleResult,
    StageResult,
    TrainingResult,
)
from mochi_operator.observe import COMPLETION_INDEX
from tests.simulation.kernel import Kernel
from tests.simulation.nodes import Runtime
from tests.simulation.store import Object, Store, label, owner

REPLICA_INDEX = "training.kubeflow.org/replica-index"
STEPS_PER_TICK = 5
RENDEZVOUS_SECONDS = 600.0
NO_OUTCOME = -1


@dataclass(frozen=True)
class Mishap:
    """What goes wrong in one attempt of one step."""

    kind: str
    """`fail`, `hang`, `silent` (ends with an exit code and no word), `oom`, `mute` (its good result is lost)."""
    reason: Reason = Reason.UNKNOWN
    part: float = 0.5
    """After which part of the work."""


@dataclass
class Work:
    """One run's data in the object store, and what has been true of it."""

    uid: str
    checkpoints: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Step to attempt that wrote it and whether it is complete."""
    claim: int = 0
    """The newest attempt that has taken the checkpoints over."""
    trained: bool = False
    shares: dict[str, Any] = field(default_factory=dict)
    """Units of stages that several pods share, by stage."""

    def newest(self) -> int:
        """Step of the newest complete checkpoint, 0 when there is none."""
        return max((step for step, (_, complete) in self.checkpoints.items() if complete), default=0)

    def artifact(self) -> str:
        """Where the result lies; the same however often the training was interrupted."""
        return f"s3://runs/x/runs/{self.uid}/artifacts/lora.safetensors"

    def checkpoint_uri(self, step: int) -> str:
        """Where a checkpoint lies."""
        return f"s3://runs/x/runs/{self.uid}/checkpoints/step-{step:06d}"

    def preview_uri(self, step: int) -> str:
        """Where samples of a checkpoint lie."""
        return f"s3://runs/x/runs/{self.uid}/samples/step-{step:06d}"


@dataclass
class Script:
    """How long things take, and what goes wrong, by run, step and attempt."""

    stage_seconds: float = 7.0
    tick_seconds: float = 5.0
    load_seconds: float = 4.0
    slow_load: float = 0.0
    total_steps: int = 20
    mishaps: dict[tuple[str, int], Mishap] = field(default_factory=dict)
    """By step and number of the try (the n-th time that this step's program starts)."""
    knows_check: bool = True


class Trainer:
    """Starts programs and keeps what they leave behind."""

    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        exited: Callable[..., None],
        mishap_happened: Callable[[str, str, int, Reason], None],
        shard: Callable[[Trainer, Runtime, Work, str, int], Job],
    ) -> None:
        self.kernel = kernel
        self.store = store
        self.exited = exited
        self.tell = mishap_happened
        self._shard = shard
        self.script = Script()
        self.works: dict[str, Work] = {}
        self.gangs: dict[str, Gang] = {}
        self.tries: dict[tuple[str, str, str], int] = {}
        """Starts by run, step and child."""

    def start(self, runtime: Runtime) -> Job:
        """The program of a pod whose container starts."""
        pod = runtime.pod
        stage, attempt = label(pod, identity.LABEL_STAGE), int(label(pod, identity.LABEL_ATTEMPT) or 1)
        uid = self._run_of(runtime)
        work = self.works.setdefault(uid, Work(uid))
        if index_of(pod):
            return self._shard(self, runtime, work, stage, attempt)
        if stage != "train":
            return Job(self, runtime, work, stage, attempt)
        child = owner(pod)["uid"]
        gang = self.gangs.get(child)
        if gang is None or gang.complete:
            # A pod that was made again meets nobody in the group that has begun without it.
            gang = self.gangs[child] = Gang(self, work, attempt, self._replicas(runtime))
        return Rank(self, runtime, work, attempt, gang)

    def mishap(self, uid: str, stage: str, child: str) -> Mishap | None:
        """What goes wrong this time; a program that starts again in the same child is a new try."""
        key = (uid, stage, "")
        self.tries[key] = self.tries.get(key, 0) + 1
        return self.script.mishaps.get((stage, self.tries[key]))

    @staticmethod
    def _run_of(runtime: Runtime) -> str:
        """The run whose run file the pod has mounted."""
        return str(runtime.words["run-uid"])

    def _replicas(self, runtime: Runtime) -> int:
        for entry in runtime.pod["spec"]["containers"][0].get("env") or ():
            if entry["name"] == "WORLD_SIZE":
                return int(entry["value"])
        return 1


class Job:
    """The program of a step that is not the training."""

    def __init__(self, trainer: Trainer, runtime: Runtime, work: Work, stage: str, attempt: int) -> None:
        self.trainer, self.runtime, self.work = trainer, runtime, work
        self.stage, self.attempt = stage, attempt
        self.ended = False
        self.rank = 0
        self.moved = trainer.kernel.seconds
        self.moving = True
        self.done, self.total = 0, 3
        self.mishap: Mishap | None = None
        self.begin()

    def begin(self) -> None:
        """Work off the step, unless something goes wrong on the way."""
        trainer = self.trainer
        self.mishap = trainer.mishap(self.work.uid, self.stage, owner(self.runtime.pod)["uid"])
        seconds = trainer.script.stage_seconds * trainer.kernel.between(0.5, 1.5)
        if self.mishap is None or self.mishap.kind == "mute":
            trainer.kernel.later(seconds, self.well)
        else:
            trainer.kernel.later(seconds * self.mishap.part, self._ill)

    def well(self) -> None:
        """The work is done."""
        mute = self.mishap is not None and self.mishap.kind == "mute"
        if self.stage in ("check", "preview") and not self.trainer.script.knows_check:
            self.exit(2, None)
        else:
            self.exit(0, None if mute else result_of(self.stage, self.work))

    def _ill(self) -> None:
        assert self.mishap is not None
        if self.ended:
            return
        kind, reason = self.mishap.kind, self.mishap.reason
        if kind == "hang":
            self.moving, self.moved = False, self.trainer.kernel.seconds
            self.trainer.tell(self.work.uid, self.stage, self.attempt, Reason.STALLED)
            self.trainer.kernel.note("trainer", f"{self.runtime.name} hangs")
        elif kind == "oom":
            self.exit(137, None, "OOMKilled")
        elif kind == "silent":
            self.exit(1 if reason is Reason.BUG else 134, None)
        else:
            code = ROWS[reason].exit_code
            self.trainer.tell(self.work.uid, self.stage, self.attempt, reason)
            self.exit(
                1 if code is None else code, Outcome(reason=reason, message="as scripted", rank=self.rank)
            )

    def exit(self, code: int, outcome: Outcome | None, reason: str = "") -> None:
        """End with a code and a last word."""
        if not self.ended:
            self.ended = True
            if code == 0 and outcome is None:
                self.trainer.tell(self.work.uid, self.stage, self.attempt, Reason.ARTIFACTS_MISSING)
            elif code not in (0, 143):
                found = outcome.reason if outcome is not None else Reason.UNKNOWN
                found = Reason.OUT_OF_MEMORY if reason == "OOMKilled" else found
                self.trainer.tell(self.work.uid, self.stage, self.attempt, found)
            self.trainer.exited(self.runtime, code, outcome.to_line() if outcome is not None else "", reason)

    def sigterm(self, grace: float) -> None:
        """The usual end by SIGTERM: a moment later, code 143, and a line that says so; a hanging program ignores it."""
        if not self.moving:
            return
        wait = min(grace * 0.9, self.trainer.kernel.between(0.2, 8))
        self.trainer.kernel.later(wait, self.stopped)

    def stopped(self) -> None:
        """What has been done is kept; the rest is for another pod."""
        self.exit(143, Outcome(reason=Reason.PREEMPTED, message="asked to stop", rank=self.rank))

    def kill(self) -> None:
        """Gone without a word."""
        self.ended = True

    def quiet_seconds(self) -> float:
        """Since anything moved."""
        return 0.0 if self.moving else self.trainer.kernel.seconds - self.moved

    @property
    def activity(self) -> str:
        return "working"


class Rank(Job):
    """One pod of the training."""

    def __init__(self, trainer: Trainer, runtime: Runtime, work: Work, attempt: int, gang: Gang) -> None:
        self.gang = gang
        super().__init__(trainer, runtime, work, "train", attempt)

    def begin(self) -> None:
        self.rank = int(label(self.runtime.pod, REPLICA_INDEX) or 0)
        self.total = self.trainer.script.total_steps
        self.trainer.kernel.later(RENDEZVOUS_SECONDS, self._nobody_came)
        self.gang.join(self)

    def _nobody_came(self) -> None:
        if not self.ended and not self.gang.complete:
            self.lost_peer()

    def lost_peer(self) -> None:
        """A collective does not come back."""
        if not self.ended:
            self.exit(9, Outcome(reason=Reason.COLLECTIVE_TIMEOUT, message="a peer is gone", rank=self.rank))

    def exit(self, code: int, outcome: Outcome | None, reason: str = "") -> None:
        super().exit(code, outcome, reason)
        self.gang.left(self, code)

    def kill(self) -> None:
        super().kill()
        self.gang.left(self, 137)

    def stopped(self) -> None:
        if self.rank == 0 and not self.ended and self.gang.step:
            self.gang.save(complete_at_once=True)
        super().stopped()

    @property
    def activity(self) -> str:
        return self.gang.activity


class Gang:
    """The ranks of one child: they wait for each other, load, resume, step and save together."""

    def __init__(self, trainer: Trainer, work: Work, attempt: int, size: int) -> None:
        self.trainer, self.work, self.attempt, self.size = trainer, work, attempt, size
        self.members: dict[int, Rank] = {}
        self.complete = False
        self.broken = False
        self.activity = "waiting for peers"
        self.step = 0
        self.step_at: float | None = None
        self.mishap: Mishap | None = None

    def join(self, rank: Rank) -> None:
        """A rank has started."""
        self.members[rank.rank] = rank
        alive = [member for member in self.members.values() if not member.ended]
        for member in alive:
            member.moved = self.trainer.kernel.seconds
        if len(alive) == self.size and not self.complete:
            self._begin()

    def left(self, rank: Rank, code: int) -> None:
        """A rank has ended; unless all is done, the others notice after a while."""
        if code == 0 or self.broken or not self.complete:
            return
        self.broken = True
        for member in self.members.values():
            if not member.ended:
                self.trainer.kernel.later(self.trainer.kernel.between(2, 40), member.lost_peer)

    def save(self, *, complete_at_once: bool = False) -> bool:
        """Write a checkpoint: its shards first, the manifest last; a newer attempt's claim forbids it."""
        if self.work.claim > self.attempt:
            return False
        step = self.step
        if not self.work.checkpoints.get(step, (0, False))[1]:
            self.work.checkpoints[step] = (self.attempt, complete_at_once)
        if not complete_at_once:
            self.trainer.kernel.later(self.trainer.kernel.between(0.5, 3), self._manifest, step)
        return True

    def _manifest(self, step: int) -> None:
        if not self.broken and self.work.claim <= self.attempt and not self.members[0].ended:
            self.work.checkpoints[step] = (self.attempt, True)

    def _begin(self) -> None:
        trainer = self.trainer
        self.complete, self.activity = True, "loading"
        self.mishap = trainer.mishap(self.work.uid, "train", "")
        seconds = trainer.script.load_seconds + trainer.script.slow_load
        trainer.kernel.later(seconds, self._resume)

    def _resume(self) -> None:
        if self.broken or any(member.ended for member in self.members.values()):
            return
        if self.work.claim > self.attempt:
            self._superseded()
            return
        self.work.claim = self.attempt
        self.step, self.activity = self.work.newest(), "training"
        self.trainer.kernel.note(
            "trainer", f"{self.work.uid} attempt {self.attempt} goes on from step {self.step}"
        )
        self._next()

    def _next(self) -> None:
        self._moved()
        if self.step >= self.trainer.script.total_steps:
            self.trainer.kernel.later(self.trainer.kernel.between(1, 6), self._finish)
        else:
            self.trainer.kernel.later(self.trainer.script.tick_seconds, self._tick)

    def _moved(self) -> None:
        for member in self.members.values():
            member.moved = self.trainer.kernel.seconds
            member.done = self.step

    def _tick(self) -> None:
        if self.broken or any(member.ended for member in self.members.values()):
            return
        self.step = min(self.step + STEPS_PER_TICK, self.trainer.script.total_steps)
        self.step_at = self.trainer.kernel.seconds
        if not self.save():
            self._superseded()
        elif self._goes_wrong():
            self._ill()
        else:
            self._next()

    def _goes_wrong(self) -> bool:
        if self.mishap is None or self.mishap.kind == "mute":
            return False
        return self.step >= self.mishap.part * self.trainer.script.total_steps

    def _ill(self) -> None:
        assert self.mishap is not None
        kernel = self.trainer.kernel
        if self.mishap.kind == "hang":
            kernel.note("trainer", f"{self.work.uid} attempt {self.attempt} hangs at step {self.step}")
            self.trainer.tell(self.work.uid, "train", self.attempt, Reason.STALLED)
            for member in self.members.values():
                member.moving, member.moved = False, kernel.seconds
            return
        victim = self.members[kernel.rng.randrange(self.size)]
        victim.mishap = self.mishap
        victim._ill()

    def _superseded(self) -> None:
        for member in self.members.values():
            if not member.ended:
                member.exit(
                    12,
                    Outcome(
                        reason=Reason.SUPERSEDED, message="a newer attempt has taken over", rank=member.rank
                    ),
                )

    def _finish(self) -> None:
        if self.broken or any(member.ended for member in self.members.values()):
            return
        if self.work.claim > self.attempt:
            self._superseded()
            return
        mute = self.mishap is not None and self.mishap.kind == "mute"
        self.work.trained = True
        self.work.checkpoints[self.step] = (self.attempt, True)
        for member in sorted(self.members.values(), key=lambda item: -item.rank):
            outcome = (
                result_of("train", self.work, self.step)
                if member.rank == 0
                else Outcome(reason=Reason.COMPLETED)
            )
            member.exit(0, None if mute and member.rank == 0 else outcome)


def index_of(pod: Object) -> str:
    """Number of a pod of an Indexed Job; empty for others."""
    return str((pod["metadata"].get("annotations") or {}).get(COMPLETION_INDEX, ""))


def result_of(stage: str, work: Work, step: int = 0) -> Outcome:
    """What a step leaves that has gone well."""
    done = Outcome(reason=Reason.COMPLETED)
    if stage == "check":
        return done.model_copy(update={"check_result": CheckResult(clips=3)})
    if stage == "sample":
        root = f"s3://runs/x/runs/{work.uid}"
        result = SampleResult(sampleURIs=[f"{root}/samples/a.mp4"], reportURI=f"{root}/report.html")
        return done.model_copy(update={"sample_result": result})
    if stage == "preview":
        folder, report = work.preview_uri(work.newest()), f"s3://runs/x/runs/{work.uid}/report.html"
        result = SampleResult(sampleURIs=[f"{folder}/a.mp4"], reportURI=report, step=work.newest())
        return done.model_copy(update={"sample_result": result})
    if stage == "train":
        training = TrainingResult(
            artifactURI=work.artifact(), sha256="ab" * 32, size_bytes=7, final_step=step, final_loss=0.25,
            checkpointURI=work.checkpoint_uri(step),
        )  # fmt: skip
        return done.model_copy(update={"training_result": training})
    return done.model_copy(
        update={"stage_result": StageResult(cache_key=f"key-{stage}", items_total=3, items_done=3)}
    )
