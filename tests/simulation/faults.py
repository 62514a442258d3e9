"""Everything that a cluster does to those who live in it; each fault begins and ends before the calm, but for the few that are meant to stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mochi_api import identity
from mochi_api.outcomes import Reason
from mochi_operator.cluster import CONFIGMAPS, FINETUNES, JOBS, PYTORCHJOBS
from tests.simulation.controllers import children, hold
from tests.simulation.nodes import Node, Runtime
from tests.simulation.store import Object, ended, label, owner
from tests.simulation.trainer import Mishap
from tests.simulation.world import NAMESPACE, World

STEPS = ("check", "trim", "captions", "videos", "train", "sample")


@dataclass(frozen=True)
class Moment:
    """When a fault happens, and by when it must be over."""

    start: float
    calm: float

    def end(self, longest: float, world: World) -> float:
        """A time between start and the calm, after at most so long."""
        most = max(2.5, min(longest, self.calm - self.start))
        return self.start + world.kernel.between(most / 4, most)


Fault = Callable[[World, Moment], None]


def unleash(world: World, names: list[str], calm: float) -> None:
    """Choose this seed's faults and set their times."""
    kernel = world.kernel
    _climate(world, calm)
    for _ in range(kernel.rng.randrange(0, 12)):
        fault = kernel.rng.choices(_FAULTS, _WEIGHTS)[0]
        start = kernel.between(0, calm * 0.9)
        fault(world, Moment(start, calm))


def _climate(world: World, calm: float) -> None:
    """What lasts for the whole time of faults."""
    kernel, manners, delivery, weather = (
        world.kernel,
        world.server.manners,
        world.watches.delivery,
        world.nodes.weather,
    )
    rng = kernel.rng
    manners.error_rate = rng.choice([0, 0, 0, 0.01, 0.03, 0.1])
    manners.slow_rate = rng.choice([0, 0, 0.02, 0.1])
    delivery.lost, delivery.twice = rng.choice([0, 0, 0.1, 0.5, 1.0]), rng.choice([0, 0.1])
    delivery.late = rng.choice([0, 0, 0.1, 0.5])
    world.gc.latest = rng.choice([1, 1, 5, 30, 120])
    weather.sidecar = rng.choice(["", "", "", "native", "ordinary"])
    weather.slow_start = rng.choice([1, 1, 10, 40])
    weather.slow_term = rng.choice([0, 0, 0, 5, 60])
    weather.collector = rng.choice([0, 0, 0, 0, 2, 30])
    world.telephone.cut = kernel.chance(0.15)
    world.telephone.noise = rng.choice([0, 0, 0.2])
    world.skew = rng.choice([0, 0, 0, -45, 8])
    kernel.later(calm, _clear, world)


def _clear(world: World) -> None:
    """The calm: API server, watches, controllers, nodes as they should be."""
    manners, delivery = world.server.manners, world.watches.delivery
    for process in world.alive():
        process.client.crash_in = None
    manners.error_rate = manners.slow_rate = 0.0
    manners.absent.clear()
    world.server.refused.clear()
    manners.refusals.clear()
    delivery.lost = delivery.twice = delivery.late = 0.0
    world.gc.latest = 2.0
    world.nodes.weather.image_trouble = False
    world.nodes.weather.slow_term = 0.0
    world.nodes.weather.collector = 0.0
    world.telephone.noise = 0.0
    world.admission.refusal = ""
    for controller in (world.jobs, world.training_operator):
        if controller.down:
            controller.up()
    for node in list(world.nodes.nodes):
        node.cordoned = False
        world.nodes.back(node)


# The API server and the watches.


def storm(world: World, moment: Moment) -> None:
    """Most calls fail for a while."""
    rate = world.kernel.rng.choice([0.3, 0.6, 1.0])
    _set_for(world, moment, 60, world.server.manners, "error_rate", rate)


def relist(world: World, moment: Moment) -> None:
    """410 on the watches."""
    world.kernel.later(moment.start, world.watches.relist)


def refusal(world: World, moment: Moment) -> None:
    """The API server refuses what the operator creates."""
    kernel, refusals = world.kernel, world.server.manners.refusals
    kinds = kernel.rng.choice(
        [[JOBS.name], [PYTORCHJOBS.name], [CONFIGMAPS.name], [JOBS.name, PYTORCHJOBS.name]]
    )
    how = kernel.rng.choice(["quota", "webhook", "policy"])
    kernel.later(
        moment.start, _say_and, world, f"{how} for {kinds}", refusals.update, dict.fromkeys(kinds, how)
    )
    longest = _longest(world, how == "policy", 40, Reason.POD_REFUSED)
    for kind in kinds:
        kernel.later(moment.end(longest, world), refusals.pop, kind, None)


def absent(world: World, moment: Moment) -> None:
    """The training operator's CRD is not installed for a while."""
    kinds = world.server.manners.absent
    if any(world.store.all(PYTORCHJOBS.name)):
        return
    world.kernel.later(moment.start, _absent_if_unused, world)
    world.kernel.later(moment.end(120, world), kinds.discard, PYTORCHJOBS.name)


def _absent_if_unused(world: World) -> None:
    if not world.store.all(PYTORCHJOBS.name):
        _say_and(world, "no kind PyTorchJob", world.server.manners.absent.add, PYTORCHJOBS.name)


# The operator.


def crash(world: World, moment: Moment) -> None:
    """SIGKILL, and a new process some time later."""
    world.kernel.later(moment.start, _kill_all, world)
    world.kernel.later(moment.end(90, world), world.ensure_operator)


def _kill_all(world: World) -> None:
    for process in world.alive():
        world.stop_operator(process)


def crash_in_a_call(world: World, moment: Moment) -> None:
    """The process dies just before, or just after, one of its calls takes effect."""
    world.kernel.later(moment.start, _arm, world, world.kernel.rng.randrange(1, 30))


def _arm(world: World, calls: int) -> None:
    for process in world.alive():
        process.client.crash_in = calls


def second_operator(world: World, moment: Moment) -> None:
    """Two processes at once, as in a bad rollout."""
    end = moment.end(200, world)
    world.kernel.later(moment.start, _two_until, world, end)


def _two_until(world: World, end: float) -> None:
    process = world.start_operator()
    world.kernel.later(max(0.0, end - world.kernel.seconds), _one_of_two, world, process.name)


def _one_of_two(world: World, name: str) -> None:
    """Either of the two stays."""
    alive = world.alive()
    if len(alive) > 1:
        world.stop_operator(world.kernel.rng.choice(alive))


def clock_jump(world: World, moment: Moment) -> None:
    """The wall clock of the operator's machine is wrong for a while."""
    skew = world.kernel.rng.choice([-90, -30, -3, 3, 15])
    world.kernel.later(moment.start, _skew, world, skew)
    world.kernel.later(moment.end(200, world), _skew, world, -skew)


def _skew(world: World, seconds: int) -> None:
    world.kernel.note("world", f"the operators' clock jumps by {seconds:+d} s")
    world.skew = min(20.0, world.skew + seconds)


# Controllers and queues.


def controller_down(world: World, moment: Moment) -> None:
    """A controller does nothing for a while."""
    controller = world.kernel.rng.choice([world.jobs, world.training_operator])
    world.kernel.later(
        moment.start,
        _say_and,
        world,
        f"{controller.kind} controller is down",
        setattr,
        controller,
        "down",
        True,
    )
    world.kernel.later(moment.end(200, world), controller.up)


def pods_refused(world: World, moment: Moment) -> None:
    """Quota, a webhook or a policy stands in the way of pods."""
    how = world.kernel.rng.choice(["quota", "quota", "webhook", "webhook", "policy"])
    longest = _longest(world, how == "policy", 40, Reason.POD_REFUSED)
    _set_for(world, moment, longest, world.admission, "refusal", how)


def held_by_queue(world: World, moment: Moment) -> None:
    """A queue suspends a child and later lets it go."""
    world.kernel.later(moment.start, _hold, world, moment.end(150, world))


def _hold(world: World, end: float) -> None:
    child = _some_child(world)
    if child is not None:
        world.kernel.note("queue", f"suspends {child['metadata']['name']}")
        world.laws.ledger.disrupted(*_address(child))
        hold(world.store, child, suspended=True)
        world.kernel.later(max(1.0, end - world.kernel.seconds), _release, world, child)


def _release(world: World, child: Object) -> None:
    world.kernel.note("queue", f"admits {child['metadata']['name']}")
    hold(world.store, child, suspended=False)


# Nodes.


def evicted(world: World, moment: Moment) -> None:
    """Eviction, preemption, or pressure on the node."""
    world.kernel.later(moment.start, _evict, world)


def _evict(world: World) -> None:
    found = [item for item in world.nodes.bound() if item.phase in ("Pending", "Running")]
    if not found:
        return
    runtime = world.kernel.rng.choice(found)
    match world.kernel.rng.randrange(4):
        case 0:
            world.nodes.disrupt(runtime, "EvictionByEvictionAPI", "Eviction API: evicting")
        case 1:
            world.nodes.disrupt(runtime, "PreemptionByScheduler", "default-scheduler: preempting")
        case 2:
            world.nodes.press(runtime)
        case _:
            world.nodes.remove_by_hand(runtime)


def drained(world: World, moment: Moment) -> None:
    """A node is cordoned, and its pods, the finished ones too, are evicted."""
    world.kernel.later(moment.start, _drain, world, moment.end(120, world))


def _drain(world: World, end: float) -> None:
    node = world.kernel.rng.choice(world.nodes.nodes)
    if not node.reachable or not node.exists:
        return
    node.cordoned = True
    world.kernel.note("nodes", f"{node.name} is drained")
    for runtime in world.nodes.bound():
        if runtime.node is node:
            _evict_for_drain(world, runtime)
    world.kernel.later(max(1.0, end - world.kernel.seconds), setattr, node, "cordoned", False)


def _evict_for_drain(world: World, runtime: Runtime) -> None:
    world.nodes.disrupt(runtime, "EvictionByEvictionAPI", "Eviction API: evicting")


def node_lost(world: World, moment: Moment) -> None:
    """A node dies, or is cut off; it comes back, or its Node object is deleted."""
    world.kernel.later(moment.start, _lose, world, moment)


def _lose(world: World, moment: Moment) -> None:
    kernel = world.kernel
    node = kernel.rng.choice([item for item in world.nodes.nodes if item.exists and item.reachable])
    if not node.reachable:
        return
    world.nodes.lose(node, power=kernel.chance(0.6), tolerated=kernel.between(20, 100))
    end = max(1.0, moment.end(240, world) - kernel.seconds)
    if kernel.chance(0.3):
        node.dead_for_good = True
        world.nodes.replace(node)
    elif kernel.chance(0.4):
        kernel.later(end, _replaced, world, node)
    else:
        kernel.later(end, world.nodes.back, node)


def _replaced(world: World, node: Node) -> None:
    if not node.reachable:
        world.nodes.collect(node)
        world.nodes.replace(node)


def cordoned(world: World, moment: Moment) -> None:
    """No GPU is free for a while, or for a part of the gang only."""
    some = [node for node in world.nodes.nodes if node.gpus]
    for node in some[: world.kernel.rng.randrange(1, 3)]:
        _set_for(world, moment, 240, node, "cordoned", True)


def image_trouble(world: World, moment: Moment) -> None:
    """The registry does not answer."""
    longest = _longest(world, True, 110, Reason.IMAGE_UNAVAILABLE)
    _set_for(world, moment, longest, world.nodes.weather, "image_trouble", True)


def finished_pod_collected(world: World, moment: Moment) -> None:
    """The garbage collector of finished pods takes one."""
    world.kernel.later(moment.start, _collect_one, world)


def _collect_one(world: World) -> None:
    found = [item for item in world.nodes.bound() if item.phase in ("Succeeded", "Failed")]
    if found:
        runtime = world.kernel.rng.choice(found)
        world.kernel.note("podgc", f"takes {runtime.name}")
        world.store.delete(runtime.pod)


# The trainer.


def passing_mishap(world: World, moment: Moment) -> None:
    """A step goes wrong in a way that the next attempt does not."""
    kernel = world.kernel
    step = kernel.rng.choice((*STEPS, "train", "train"))
    reasons = [Reason.STORAGE_ERROR, Reason.DEVICE_UNAVAILABLE, Reason.COLLECTIVE_TIMEOUT, Reason.PREEMPTED]
    kind = kernel.rng.choice(["fail", "fail", "fail", "hang", "silent", "mute"])
    mishap = Mishap(kind, kernel.rng.choice(reasons), kernel.rng.random())
    world.trainer.script.mishaps[step, kernel.rng.choice([1, 1, 2])] = mishap


def final_mishap(world: World, moment: Moment) -> None:
    """A step goes wrong for good."""
    kernel = world.kernel
    reason = kernel.rng.choice(
        [
            Reason.OUT_OF_MEMORY,
            Reason.BUG,
            Reason.INVALID_INPUT,
            Reason.DATASET_REJECTED,
            Reason.ACCESS_DENIED,
        ]
    )
    kind = "oom" if reason is Reason.OUT_OF_MEMORY and kernel.chance(0.5) else "fail"
    world.trainer.script.mishaps[kernel.rng.choice(STEPS[1:]), 1] = Mishap(kind, reason, kernel.rng.random())


def hopeless(world: World, moment: Moment) -> None:
    """A step that fails however often it is tried."""
    step = world.kernel.rng.choice(STEPS[1:])
    for number in range(1, 20):
        world.trainer.script.mishaps[step, number] = Mishap("fail", Reason.STORAGE_ERROR, 0.3)


def slow_loading(world: World, moment: Moment) -> None:
    """The weights come slowly, but they come."""
    world.trainer.script.slow_load = world.kernel.rng.choice([60.0, 250.0])


# Users.


def busy_annotator(world: World, moment: Moment) -> None:
    """Somebody's tool writes to the run all the time, so that every status write may come too late."""
    world.kernel.later(moment.start, _annotate, world, moment.end(60, world))


def _annotate(world: World, end: float) -> None:
    for run in world.runs():
        world.store.edit(run, meta={"annotations": {"beat": f"{world.kernel.seconds:.3f}"}})
    if world.kernel.seconds < end:
        world.kernel.later(world.kernel.between(0.02, 1.5), _annotate, world, end)


def run_file_deleted(world: World, moment: Moment) -> None:
    """Somebody deletes a ConfigMap."""
    world.kernel.later(moment.start, _delete_run_file, world)


def _delete_run_file(world: World) -> None:
    found = [item for item in world.store.all(CONFIGMAPS.name) if owner(item)]
    if found:
        item = world.kernel.rng.choice(found)
        world.kernel.note("user", f"deletes ConfigMap {item['metadata']['name']}")
        world.laws.ledger.failed(*_address(item), Reason.MISSING_OBJECT)
        world.laws.ledger.failed(*_address(item), Reason.BACKEND_DELETED)
        world.store.delete(item)


def look_alike(world: World, moment: Moment) -> None:
    """Somebody copies a child with its labels under another name, without its owner."""
    world.kernel.later(moment.start, _copy, world)


def _copy(world: World) -> None:
    child = _some_child(world)
    if child is not None:
        name = f"copy-of-{child['metadata']['name']}"
        meta = {"name": name, "namespace": NAMESPACE, "labels": child["metadata"]["labels"]}
        if world.store.get(child["kind"], NAMESPACE, name) is None:
            world.kernel.note("user", f"copies {child['metadata']['name']}")
            spec = {**child["spec"], "suspend": True, "runPolicy": {"suspend": True}}
            world.store.add(
                {"apiVersion": child["apiVersion"], "kind": child["kind"], "metadata": meta, "spec": spec}
            )


def removed(world: World, moment: Moment) -> None:
    """`kubectl delete`, for good."""
    world.kernel.later(moment.start, _remove, world)


def _remove(world: World) -> None:
    runs = world.runs()
    if runs:
        run = world.kernel.rng.choice(runs)
        world.kernel.note("user", f"deletes {run['metadata']['name']}")
        world.store.delete(run)


def edited(world: World, moment: Moment) -> None:
    """`kubectl edit`: the run's policy, or an annotation of somebody's tool."""
    world.kernel.later(moment.start, _edit, world)


def _edit(world: World) -> None:
    kernel = world.kernel
    runs = world.runs()
    if not runs:
        return
    run = kernel.rng.choice(runs)
    name, uid = run["metadata"]["name"], run["metadata"]["uid"]
    if kernel.chance(0.5):
        kernel.note("user", f"annotates {name}")
        world.store.edit(run, meta={"annotations": {"seen": kernel.stamp()}})
        return
    limit = kernel.rng.choice([1, 2, 5])
    kernel.note("user", f"sets backoffLimit of {name} to {limit}")
    policy = {**run["spec"]["runPolicy"], "backoffLimit": limit, "activeDeadlineSeconds": 80_000}
    world.laws.ledger.limits[uid] = min(limit, world.laws.ledger.limits[uid])
    world.store.edit(run, spec={**run["spec"], "runPolicy": policy})


def recreated(world: World, moment: Moment) -> None:
    """`kubectl delete` and `kubectl apply` of the same name."""
    world.kernel.later(moment.start, _recreate, world)


def _recreate(world: World) -> None:
    kernel = world.kernel
    runs = world.runs()
    if runs:
        run = kernel.rng.choice(runs)
        kernel.note("user", f"deletes {run['metadata']['name']}")
        world.store.delete(run)
        kernel.later(kernel.between(0.1, 20), _apply_again, world, run)


def _apply_again(world: World, run: Object) -> None:
    if world.store.get(FINETUNES.name, NAMESPACE, run["metadata"]["name"]) is None:
        world.submit(run["metadata"]["name"], run["spec"])


def child_deleted(world: World, moment: Moment) -> None:
    """Somebody deletes a Job or a PyTorchJob."""
    world.kernel.later(moment.start, _delete_child, world)


def _delete_child(world: World) -> None:
    child = _some_child(world)
    if child is not None:
        world.laws.ledger.failed(*_address(child), Reason.BACKEND_DELETED)
        world.laws.ledger.disrupted(*_address(child))
        world.kernel.note("user", f"deletes {child['kind']} {child['metadata']['name']}")
        world.store.delete(child)


def foreign(world: World, moment: Moment) -> None:
    """An object of somebody else has the name of a child; it stays for a while, or for good."""
    kernel = world.kernel
    kind, name = kernel.rng.choice(
        [
            (JOBS.name, "dissolve-videos"),
            (CONFIGMAPS.name, "dissolve-captions-run"),
            (PYTORCHJOBS.name, "dissolve-a1"),
        ]
    )
    kernel.later(0.0, _squat, world, kind, name)
    if kernel.chance(0.25):
        world.stated_waits["dissolve"] = name
        world.laws.ledger.lasting.add(Reason.NAME_CONFLICT)
    else:
        kernel.later(moment.end(300, world), _unsquat, world, kind, name)


def _squat(world: World, kind: str, name: str) -> None:
    if world.store.get(kind, NAMESPACE, name) is None:
        world.kernel.note("other", f"makes {kind} {name}")
        manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}}
        world.store.add({**manifest, "spec": {"suspend": True, "runPolicy": {"suspend": True}}, "data": {}})


def _unsquat(world: World, kind: str, name: str) -> None:
    found = world.store.get(kind, NAMESPACE, name)
    if found is not None and not owner(found):
        world.kernel.note("other", f"removes {kind} {name}")
        world.store.delete(found)


# Helpers.


def _address(item: Object) -> tuple[str, str, int]:
    """Run, step and attempt of a child or of a pod."""
    attempt = int(label(item, identity.LABEL_ATTEMPT) or 1)
    return label(item, identity.LABEL_UID), label(item, identity.LABEL_STAGE), attempt


def _longest(world: World, final: bool, short: float, reason: Reason) -> float:
    """How long a trouble lasts: what ends a run if it lasts is mostly short, and else a cause that the run may name."""
    if not final:
        return 240
    if world.kernel.chance(0.75):
        return short
    world.laws.ledger.lasting.add(reason)
    return 400


def _some_child(world: World) -> Object | None:
    found = [
        item
        for run in world.runs()
        for item in children(world.store, run["metadata"]["uid"])
        if not ended(item)
    ]
    return world.kernel.rng.choice(found) if found else None


def _set_for(world: World, moment: Moment, longest: float, target: object, name: str, value: object) -> None:
    before = getattr(target, name)
    world.kernel.later(moment.start, _say_and, world, f"{name} = {value}", setattr, target, name, value)
    world.kernel.later(
        moment.end(longest, world), _say_and, world, f"{name} = {before}", setattr, target, name, before
    )


def _say_and(world: World, text: str, act: Callable[..., object], *arguments: object) -> None:
    if world.kernel.calm:
        return
    world.kernel.note("world", text)
    act(*arguments)


_TABLE: tuple[tuple[Fault, int], ...] = (
    (storm, 3),
    (relist, 1),
    (refusal, 3),
    (absent, 1),
    (crash, 4),
    (crash_in_a_call, 6),
    (second_operator, 3),
    (clock_jump, 2),
    (controller_down, 2),
    (pods_refused, 4),
    (held_by_queue, 3),
    (evicted, 6),
    (drained, 2),
    (node_lost, 4),
    (cordoned, 3),
    (image_trouble, 2),
    (finished_pod_collected, 3),
    (passing_mishap, 6),
    (final_mishap, 1),
    (hopeless, 1),
    (slow_loading, 1),
    (edited, 3),
    (recreated, 3),
    (removed, 1),
    (busy_annotator, 2),
    (run_file_deleted, 1),
    (look_alike, 1),
    (child_deleted, 2),
    (foreign, 1),
)
_FAULTS = [fault for fault, _ in _TABLE]
_WEIGHTS = [weight for _, weight in _TABLE]
