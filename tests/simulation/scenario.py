"""What a seed asks for: the runs, and the faults that befall them."""

from __future__ import annotations

import random
from typing import Any

from mochi_api.outcomes import Reason
from mochi_api.runfile import PREPROCESSING
from tests.simulation.faults import unleash
from tests.simulation.kernel import Kernel
from tests.simulation.silences import Silences
from tests.simulation.trainer import STEPS_PER_TICK, Mishap
from tests.simulation.world import World

GPU_POD = {"gpus": 1}
SHARDED = 0.4
"""Share of the worlds whose stages have several pods."""
PREVIEWED = 0.4
"""Share of the worlds whose runs make samples during the training."""


def prepare(world: World, *, kind: bool, shards: bool, previews: bool) -> None:
    """One or two runs, an operator, and the faults of this seed; the calm comes after a few minutes.

    With `shards` the stages of some worlds have several pods each, with `previews` some make samples during the training.
    Both are drawn apart, so that all else of a world stays.
    """
    kernel = world.kernel
    asked = _shards(kernel.seed) if shards else {}
    sampled = Previews(kernel.seed) if previews else None
    if sampled is not None and sampled.every is not None:
        world.trainer.script.total_steps = sampled.steps
        world.trainer.script.mishaps.update(sampled.mishaps)

    def made() -> dict[str, Any]:
        body = _with(spec(kernel), asked)
        return body if sampled is None else sampled.asked_in(body)

    world.trainer.script.knows_check = kernel.chance(0.8)
    names = ["dissolve", "bus"] if kernel.chance(0.25) else ["dissolve"]
    for name in names:
        kernel.later(kernel.between(0, 5), world.submit, name, made())
    world.another = lambda: world.submit(f"later-{len(kernel.lines)}", made())
    world.start_operator()
    calm = kernel.between(100, 420)
    if sampled is not None:
        for moment in sampled.moments:
            kernel.later(moment, world.ask_for_samples)
    if not kind:
        unleash(world, names, calm)
    kernel.later(calm + 1.0, _calmed, world)
    Silences(world).look()


def _shards(seed: int) -> dict[str, int]:
    """Pods of each stage that has several, in four of ten worlds."""
    draws = random.Random(f"shards {seed}")
    if draws.random() >= SHARDED:
        return {}
    return {stage: draws.choice([1, 2, 3]) for stage in PREPROCESSING}


class Previews:
    """Samples during the training, as this seed has them: by a schedule, by annotations, or not at all."""

    def __init__(self, seed: int) -> None:
        draws = random.Random(f"previews {seed}")
        self.every: int | None = None
        """None: nobody asks for any. 0: only annotations do."""
        self.steps = 0
        self.moments: list[float] = []
        """When somebody annotates the runs."""
        self.mishaps: dict[tuple[str, int], Mishap] = {}
        if draws.random() >= PREVIEWED:
            return
        self.every = draws.choice([0, 5, 20, 35])
        self.steps = draws.choice([100, 200, 300])
        self.moments = [draws.uniform(0, 400) for _ in range(draws.randrange(0 if self.every else 1, 6))]
        for number in range(1, 6):
            if draws.random() < 0.3:
                kind = draws.choice(["fail", "fail", "hang", "silent", "oom", "mute"])
                reason = draws.choice([Reason.STORAGE_ERROR, Reason.OUT_OF_MEMORY, Reason.BUG])
                reason = Reason.UNKNOWN if kind == "silent" else reason  # it leaves no word of one
                self.mishaps["preview", number] = Mishap(kind, reason, draws.random())

    def asked_in(self, body: dict[str, Any]) -> dict[str, Any]:
        """The spec of a run of this world."""
        if self.every is None:
            return body
        training = {**body["training"], "steps": self.steps, "checkpoint": {"everySteps": STEPS_PER_TICK}}
        return {**body, "training": training, "sampling": {**body["sampling"], "everySteps": self.every}}


def _with(body: dict[str, Any], shards: dict[str, int]) -> dict[str, Any]:
    section = body["preprocessing"]
    parts = {stage: {**section.get(stage, {}), "shards": count} for stage, count in shards.items()}
    return {**body, "preprocessing": {**section, **parts}}


def _calmed(world: World) -> None:
    world.kernel.calm = True
    world.kernel.note("world", "is calm")
    world.ensure_operator()
    world.look(world.kernel.seconds)


def spec(kernel: Kernel) -> dict[str, Any]:
    """The spec of a small run on GPUs."""
    full = kernel.chance(0.5)
    return {
        "mode": "full" if full else "lora",
        "model": {"preset": "nano"},
        "dataset": {"source": {"s3": {"uri": "s3://clips/x/"}}},
        "storage": {"outputURI": "s3://runs/x/"},
        "preprocessing": {
            "frames": 7, "width": 64, "height": 64, "captions": GPU_POD, "videos": GPU_POD,
        },
        "training": {"steps": 20},
        "sampling": GPU_POD,
        "workers": {"gpusPerPod": 1, "gpuProducts": [], **({"replicas": 2} if full else {})},
        "runPolicy": {
            "backoffLimit": kernel.rng.choice([2, 3, 3, 4]),
            "retryBackoff": {"initialSeconds": kernel.rng.choice([2, 5, 10]), "maxSeconds": 40},
            "stallTimeoutSeconds": kernel.rng.choice([60, 120, 200]),
            "gracePeriodSeconds": kernel.rng.choice([10, 30, 60]),
            **_limits(kernel),
        },
    }  # fmt: skip


def _limits(kernel: Kernel) -> dict[str, Any]:
    """Some runs have a deadline, and some try again for few reasons only."""
    match kernel.rng.randrange(20):
        case 0:
            return {"activeDeadlineSeconds": kernel.rng.randrange(100, 500)}
        case 1:
            return {"preRunningDeadlineSeconds": kernel.rng.randrange(60, 200)}
        case 2:
            return {
                "retryOn": [
                    "Preempted",
                    "NodeLost",
                    "ArtifactsMissing",
                    "BackendDeleted",
                    "CollectiveTimeout",
                ]
            }
    return {}
