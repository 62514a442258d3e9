"""What may pass is waited for and told; what is final ends the run; since when is counted from its first sight."""

from datetime import timedelta

import pytest

from mochi_api.outcomes import Reason
from mochi_api.runfile import STAGES
from mochi_operator.cluster import CONFIGMAPS, PODS, AlreadyExistsError, RefusedError
from tests.operator.fake_cluster import OUTAGE
from tests.operator.world import NAMESPACE, World, lora, well

CONDITION = {
    "check": "Checked",
    "trim": "Preprocessed",
    "captions": "Preprocessed",
    "videos": "Preprocessed",
    "train": "TrainingRunning",
    "sample": "Sampled",
}


def child_of(step: str) -> tuple[str, str]:
    return ("PyTorchJob", "dissolve-a1") if step == "train" else ("Job", f"dissolve-{step}")


async def minutes(world: World, count: float) -> None:
    """Operator and cluster take turns for so long."""
    turns = min(8, round(count * 4))
    for _ in range(turns):
        await world.turn()
        world.step()
        world.clock.advance(60 * count / turns)
    await world.turn()


def hooked(world: World, kind: str, name: str, effect: str = "before") -> None:
    """The webhook of a kind is down."""
    world.cluster.outage = lambda verb, asked, child: (
        effect if (verb, asked.name, child) == ("create", kind, name) else ""
    )


# Our own children: a webhook that is down, a quota, admission, rights, an object that is wrong.


@pytest.mark.parametrize("step", STAGES)
async def test_a_webhook_that_is_down_is_told_within_a_minute_and_waited_for(step):
    world = World()
    kind, name = child_of(step)
    hooked(world, kind, name)
    before = STAGES[: STAGES.index(step)]
    await world.until(lambda world: OUTAGE in str(world.status), turns=80)
    condition = world.condition(CONDITION[step])
    assert (condition["status"], condition["reason"]) == ("False", "Waiting")
    assert f"{kind} {name} cannot be created: {OUTAGE}" in condition["message"]
    await minutes(world, 0.75)
    assert world.cluster.reasons()[-1] == "Waiting", "an Event says so too"
    assert all(world.attempts(earlier) == [Reason.COMPLETED] for earlier in before), "what was learnt is kept"
    await minutes(world, 25)
    assert world.condition("Accepted")["status"] == "True"
    assert world.condition("Failed")["status"] != "True"
    assert world.cluster.reasons().count("Waiting") == 1
    world.cluster.outage = lambda verb, kind, name: ""
    await world.until(lambda world: name in world.cluster.names(kind), turns=5, seconds=15)
    await world.until(lambda world: world.phase == "Succeeded")


@pytest.mark.parametrize("step", STAGES)
async def test_a_create_that_took_effect_though_it_failed_makes_one_child(step):
    world = World()
    kind, name = child_of(step)
    hooked(world, kind, name, "after")
    await world.until(lambda world: world.phase == "Succeeded", turns=80)
    assert world.attempts(step) == [Reason.COMPLETED]


@pytest.mark.parametrize("step", STAGES)
async def test_a_quota_that_is_used_up_is_waited_for_without_end_and_told(step):
    world = World()
    kind, name = child_of(step)
    world.cluster.refuse = lambda manifest: (
        RefusedError("exceeded quota: jobs", cause="quota", code=403)
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name)
        else None
    )
    await world.until(lambda world: "exceeded quota" in str(world.status), turns=80)
    await minutes(world, 60)
    assert "exceeded quota: jobs" in world.condition(CONDITION[step])["message"]
    assert world.condition("Accepted")["status"] == "True"
    assert world.phase not in ("Pending", "Failed") or step == "check"
    world.cluster.refuse = lambda manifest: None
    await world.until(lambda world: world.phase == "Succeeded")


@pytest.mark.parametrize("cause", ["quota", "forbidden", "unavailable"])
async def test_the_deadline_of_the_run_ends_every_wait_and_says_what_it_waited_for(cause):
    world = World(lora(runPolicy={"activeDeadlineSeconds": 600}))
    if cause == "unavailable":
        hooked(world, "Job", "dissolve-trim")
    else:
        world.cluster.refuse = lambda manifest: (
            RefusedError(f"the {cause} says no", cause=cause, code=403)
            if manifest["metadata"]["name"] == "dissolve-trim"
            else None
        )
    await minutes(world, 11)
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.DEADLINE_EXCEEDED
    assert (OUTAGE if cause == "unavailable" else f"the {cause} says no") in failed["message"]


async def test_admission_that_refuses_a_child_for_a_minute_means_it():
    world = World()
    sentence = "ValidatingAdmissionPolicy 'no-jobs' denied request: no"
    world.cluster.refuse = lambda manifest: (
        RefusedError(sentence, cause="admission", code=422) if manifest["kind"] == "Job" else None
    )
    await world.turn()
    assert sentence in world.condition("Checked")["message"]
    assert world.phase != "Failed"
    await minutes(world, 1.25)
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.POD_REFUSED
    assert sentence in failed["message"]


@pytest.mark.parametrize("change", ["restart", "jump", "both"])
async def test_only_a_minute_that_the_operator_has_seen_itself_counts(change):
    """A trouble that the last operator wrote down was timed by its clock, and may have come and gone since."""
    world = World()
    sentence = "ValidatingAdmissionPolicy 'no-jobs' denied request: no"
    world.cluster.refuse = lambda manifest: (
        RefusedError(sentence, cause="admission", code=422) if manifest["kind"] == "Job" else None
    )
    await minutes(world, 0.5)
    if change != "restart":
        world.clock.jump(90)
    if change != "jump":
        world.restart()
    await minutes(world, 0.75)
    assert world.phase != "Failed"
    await minutes(world, 0.5)
    assert world.condition("Failed")["reason"] == Reason.POD_REFUSED


async def test_admission_that_relents_within_a_minute_is_forgotten():
    world = World()
    world.cluster.refuse = lambda manifest: RefusedError("rolling out", cause="admission", code=403)
    await minutes(world, 0.5)
    world.cluster.refuse = lambda manifest: None
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_missing_right_in_mid_run_is_told_where_it_stands():
    """Accepted speaks of the run, and stays."""
    world = World()
    await world.until(lambda world: world.phase == "Preprocessing" and world.pods("dissolve-trim") != [])
    sentence = "User cannot create resource jobs"
    world.cluster.refuse = lambda manifest: RefusedError(sentence, cause="forbidden", code=403)
    await minutes(world, 10)
    assert (world.condition("Accepted")["status"], world.phase) == ("True", "Preprocessing")
    assert sentence in world.condition("Preprocessed")["message"]
    world.cluster.refuse = lambda manifest: None
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_run_file_that_goes_between_two_looks_is_made_again():
    """The name was taken when we created it, and free when we looked who has it: the garbage collector was at work."""
    world = World()

    def vanished(manifest):
        if manifest["metadata"]["name"] != "dissolve-check-run" or seen:
            return None
        seen.append(manifest)
        return AlreadyExistsError("configmaps dissolve-check-run already exists")

    seen: list = []
    world.cluster.refuse = vanished
    await world.turn()
    assert world.cluster.names("Job") == [], "a pod never waits for its run file"
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("check") == [Reason.COMPLETED]


async def test_a_run_file_that_cannot_be_made_is_told_too():
    world = World()
    world.cluster.refuse = lambda manifest: (
        RefusedError("exceeded quota: configmaps", cause="quota", code=403)
        if manifest["kind"] == "ConfigMap"
        else None
    )
    await minutes(world, 1)
    assert "ConfigMap dissolve-check-run cannot be created" in world.condition("Checked")["message"]


# Pods that the controllers of the children cannot make.


async def childless(world: World, step: str = "trim"):
    """The child of a step without pods, older than the patience for them."""
    kind, name = child_of(step)
    await world.until(lambda world: name in world.cluster.names(kind))
    world.clock.advance(11)
    return world.cluster.one(kind, name)


@pytest.mark.parametrize("step", STAGES)
async def test_pods_that_a_webhook_outage_keeps_away_are_waited_for(step):
    world = World()
    child = await childless(world, step)
    for _ in range(8):
        world.cluster.objects.pop(("Event", NAMESPACE, "e"), None)
        world.around.complain(child, f"Error creating: {OUTAGE}", seen=world.clock.now)
        await world.turn()
        world.clock.advance(150)
    assert OUTAGE in world.condition(CONDITION[step])["message"]
    assert world.attempts(step) == [""]
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.COMPLETED]


@pytest.mark.parametrize("step", [step for step in STAGES if step != "sample"])
async def test_pods_refused_by_admission_end_the_run_with_the_message(step):
    world = World()
    child = await childless(world, step)
    text = (
        f'Error creating: pods "{child["metadata"]["name"]}-" is forbidden: violates PodSecurity "restricted"'
    )
    world.around.complain(child, text, seen=world.clock.now)
    await world.turn()
    assert "violates PodSecurity" in world.condition(CONDITION[step])["message"]
    assert world.phase != "Failed"
    world.clock.advance(40)
    world.around.complain(child, text, seen=world.clock.now, name="again")
    world.clock.advance(20)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.POD_REFUSED
    assert child["metadata"]["name"] not in world.cluster.names(child["kind"])


SMALL = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=0"
BUSY = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1"


@pytest.mark.parametrize("step", STAGES)
async def test_a_quota_that_is_smaller_than_a_pod_is_told_at_once_and_ends_the_run_after_a_minute(step):
    world = World()
    child = await childless(world, step)
    refused = f'Error creating: pods "{child["metadata"]["name"]}-" is forbidden: {SMALL}'
    world.around.complain(child, refused, seen=world.clock.now)
    await world.turn()
    told = world.condition(CONDITION[step])
    assert told["reason"] == Reason.POD_REFUSED
    assert (
        "one pod asks for 1 of requests.nvidia.com/gpu, more than the 0 that quota gpus allows"
        in told["message"]
    )
    assert "have whoever runs the namespace raise the quota" in world.status["message"]
    assert world.phase != "Failed"
    world.clock.advance(40)
    world.around.complain(child, refused, seen=world.clock.now, name="again")
    world.clock.advance(21)
    await world.turn()
    ended = world.condition("Sampled" if step == "sample" else "Failed")
    assert ended["reason"] == Reason.POD_REFUSED
    assert "more than the 0 that quota gpus allows" in ended["message"]


async def test_a_quota_that_is_raised_within_the_minute_costs_nothing():
    world = World()
    child = await childless(world, "train")
    for seconds in (0, 40):
        world.clock.advance(seconds)
        world.around.complain(child, f"Error creating: {SMALL}", seen=world.clock.now, name=f"at{seconds}")
        await world.turn()
    world.clock.advance(10)
    world.around.complain(child, f"Error creating: {BUSY}", seen=world.clock.now, name="raised")
    for _ in range(4):
        world.clock.advance(60)
        await world.turn()
    assert world.condition("TrainingRunning")["reason"] == "Starting"
    assert world.attempts("train") == [""]
    await world.until(lambda world: world.phase == "Succeeded")


async def test_a_child_that_waited_long_for_other_reasons_still_gets_its_minute():
    """The age of the child is nobody's fault: a quota may have held it for an hour."""
    world = World()
    child = await childless(world)
    world.around.complain(child, "Error creating: exceeded quota: pods", seen=world.clock.now)
    await world.turn()
    world.clock.advance(3600)
    world.around.complain(child, "Error creating: violates PodSecurity", seen=world.clock.now, name="later")
    await world.turn()
    assert world.attempts("trim") == [""]
    world.clock.advance(59)
    world.around.complain(child, "Error creating: violates PodSecurity", seen=world.clock.now, name="again")
    await world.turn()
    assert world.attempts("trim") == [""]
    world.clock.advance(2)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.POD_REFUSED


async def test_a_refusal_that_is_not_repeated_ends_nothing():
    """The policy is gone, but its controller, which waits longer each time, has not tried again yet."""
    world = World()
    child = await childless(world)
    world.around.complain(child, "Error creating: violates PodSecurity", seen=world.clock.now)
    for _ in range(5):
        await world.turn()
        world.clock.advance(30)
    assert world.attempts("trim") == [""]
    assert "violates PodSecurity" in world.condition("Preprocessed")["message"]
    await world.until(lambda world: world.phase == "Succeeded")


async def test_an_event_of_long_ago_ends_no_run():
    world = World()
    child = await childless(world)
    world.around.complain(child, "Error creating: violates PodSecurity", seen=world.clock.now)
    world.clock.advance(21 * 60)
    for _ in range(4):
        await world.turn()
        world.clock.advance(30)
    assert world.attempts("trim") == [""]
    await world.until(lambda world: world.phase == "Succeeded")


async def test_pods_that_nobody_makes_are_a_failed_attempt_after_five_minutes():
    world = World()
    await childless(world)
    world.clock.advance(30)
    await world.turn()
    assert "kube-controller-manager is silent" in world.condition("Preprocessed")["message"]
    world.clock.advance(301)
    await world.turn()
    assert world.attempts("trim") == [Reason.BACKEND_UNAVAILABLE]
    await world.until(lambda world: world.phase == "Succeeded")


# Containers that cannot start.


async def held(world: World, step: str, reason: str, message: str):
    """The first pod of a step waits for something."""
    _, name = child_of(step)
    await world.until(lambda world: world.pods(name) != [])
    pod = world.pods(name)[0]
    waiting = {"waiting": {"reason": reason, "message": message}}
    container = pod["spec"]["containers"][0]["name"]
    pod["status"] = {
        "phase": "Pending",
        "held": True,
        "containerStatuses": [{"name": container, "state": waiting}],
    }
    world.cluster.touch(pod)
    return pod


@pytest.mark.parametrize("step", [step for step in STAGES if step != "sample"])
async def test_an_image_is_waited_for_from_its_first_error_and_not_from_the_pods_creation(step):
    """Four minutes without a free GPU, then one error of a registry, fail nothing."""
    world = World()
    pod = await held(world, step, "", "")
    pod["status"] = {
        "phase": "Pending",
        "held": True,
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient gpu"}],
    }
    await minutes(world, 4)
    name = child_of(step)[1]
    pod = await held(world, step, "ErrImagePull", "registry: 503")
    await world.turn()
    pod["status"]["containerStatuses"][0]["state"] = {
        "waiting": {"reason": "ImagePullBackOff", "message": "b"}
    }
    world.clock.advance(179)
    await world.turn()
    assert world.attempts(step) == [""]
    assert f"{name}" in world.condition(CONDITION[step])["message"]
    world.clock.advance(2)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.IMAGE_UNAVAILABLE


async def test_an_image_that_comes_after_all_is_used():
    world = World()
    pod = await held(world, "trim", "ErrImagePull", "registry: 503")
    await minutes(world, 2)
    pod["status"] = {"phase": "Pending"}
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("trim") == [Reason.COMPLETED]


@pytest.mark.parametrize("step", STAGES)
async def test_a_pod_whose_run_file_is_gone_is_told_and_made_again(step):
    """Its kubelet waits for the ConfigMap without end, and says so in Events of the pod only."""
    world = World()
    pod = await held(world, step, "ContainerCreating", "")
    pod["spec"]["nodeName"] = "node-7"
    name = child_of(step)[1]
    text = f'MountVolume.SetUp failed for volume "run" : configmap "{name}-run" not found'
    world.cluster.remove(CONFIGMAPS, NAMESPACE, f"{name}-run")
    for _ in range(5):
        world.clock.advance(14)
        world.around.complain(pod, text, seen=world.clock.now, reason="FailedMount")
        await world.turn()
    assert text in world.condition(CONDITION[step])["message"]
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.BACKEND_DELETED, Reason.COMPLETED]


async def test_what_could_not_be_read_this_time_still_holds():
    """One read of Events that fails must not start the patience with a refused pod anew."""
    world = World()
    job = await childless(world)
    world.around.complain(job, "violates PodSecurity", seen=world.clock.now)
    await world.turn()
    since = world.status["stages"][1]["trouble"]["since"]
    world.clock.advance(20)
    world.cluster.outage = lambda verb, kind, name: "before" if kind.name == "Event" else ""
    await world.turn()
    assert world.status["stages"][1]["trouble"]["since"] == since
    assert "PodSecurity" in world.condition("Preprocessed")["message"]
    world.cluster.outage = lambda verb, kind, name: ""
    world.clock.advance(20)
    world.around.complain(job, "violates PodSecurity", seen=world.clock.now, name="again")
    world.clock.advance(21)
    await world.turn()
    assert world.condition("Failed")["reason"] == Reason.POD_REFUSED


async def test_a_missing_secret_is_named():
    world = World()
    await held(world, "trim", "CreateContainerConfigError", 'secret "s3" not found')
    await world.turn()
    assert 'secret "s3" not found' in world.condition("Preprocessed")["message"]
    world.clock.advance(61)
    await world.turn()
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.MISSING_OBJECT
    assert 'secret "s3" not found' in failed["message"]


async def test_the_limit_of_the_wait_counts_pods_that_are_not_made_yet_too():
    """Quota: there is no pod whose age could be asked."""
    world = World(lora(runPolicy={"preRunningDeadlineSeconds": 600}))
    child = await childless(world, "train")
    world.around.complain(child, "Error creating: exceeded quota: gpus", seen=world.clock.now)
    await world.turn()
    assert "exceeded quota: gpus" in world.condition("TrainingRunning")["message"]
    world.clock.advance(601)
    await world.turn()
    failed = world.condition("Failed")
    assert failed["reason"] == Reason.DEADLINE_EXCEEDED
    assert (
        "runPolicy.preRunningDeadlineSeconds = 600: PyTorchJob dissolve-a1: Error creating: exceeded quota"
        in (failed["message"])
    )


async def test_a_trouble_that_lasts_becomes_one_event_and_one_that_passes_none():
    world = World()
    pod = await held(world, "trim", "ErrImagePull", "registry: 503")
    await world.turn()
    world.clock.advance(10)
    await world.turn()
    assert "Waiting" not in world.cluster.reasons()
    for _ in range(4):
        world.clock.advance(15)
        await world.turn()
    assert world.cluster.reasons().count("Waiting") == 1
    pod["status"] = {"phase": "Pending"}
    await world.until(lambda world: world.phase == "Succeeded")


# Queues.


@pytest.mark.parametrize("step", STAGES)
async def test_a_child_that_a_queue_suspends_is_waited_for_and_named(step):
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != step else None
    kind, name = child_of(step)
    await world.until(lambda world: any(pod["status"]["phase"] == "Running" for pod in world.pods(name)))
    child = world.cluster.one(kind, name)
    world.around.suspend(child, True)
    await minutes(world, 40)
    assert f"{kind} {name} is suspended (by a queue?)" in world.condition(CONDITION[step])["message"]
    assert "Waiting" in world.cluster.reasons()
    assert world.attempts(step) == [""]
    world.around.suspend(child, False)
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts(step) == [Reason.COMPLETED]


async def test_a_pod_that_a_queues_suspension_ends_with_143_does_not_end_the_attempt():
    world = World()
    world.script = lambda stage, attempt, rank: well(stage, attempt, rank) if stage != "train" else None
    await world.until(lambda world: world.phase == "Training")
    world.around.suspend(world.cluster.one("PyTorchJob", "dissolve-a1"), True)
    pod = world.pods("dissolve-a1")[0]
    state = {"terminated": {"exitCode": 143, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z"}}
    pod["status"] |= {"phase": "Failed", "containerStatuses": [{"name": "pytorch", "state": state}]}
    await world.turn()
    assert "dissolve-a1" in world.cluster.names("PyTorchJob"), "deleting it would take it out of its queue"
    assert world.attempts("train") == [""]
    world.cluster.remove(PODS, NAMESPACE, pod["metadata"]["name"])
    world.around.suspend(world.cluster.one("PyTorchJob", "dissolve-a1"), False)
    world.script = well
    await world.until(lambda world: world.phase == "Succeeded")
    assert world.attempts("train") == [Reason.COMPLETED]


async def test_the_limit_of_the_wait_does_not_count_against_a_queue():
    world = World(lora(runPolicy={"preRunningDeadlineSeconds": 60}))
    child = await childless(world, "trim")
    world.around.suspend(child, True)
    world.clock.advance(timedelta(days=2).total_seconds())
    await world.turn()
    assert world.attempts("trim") == [""]
