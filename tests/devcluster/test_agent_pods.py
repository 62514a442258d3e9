"""What the agent does with a pod, and what it reports, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devcluster.agent.containers import (
    LOST,
    Container,
    Running,
    Terminated,
    Waiting,
    declared,
    from_json,
    from_status,
    lost,
    to_json,
)
from devcluster.agent.pods import (
    DELAY_ANNOTATION,
    Action,
    Plan,
    Stop,
    StopReason,
    Verb,
    next_back_off,
    plan,
    stop_order,
)
from devcluster.agent.status import Address, phase, pod_status

NOW = 1000.0
FRESH = Container(name="c")
RUNNING = Container(name="c", attempt=0, state=Running(900.0), ready=True, started=True)
DONE = replace(RUNNING, state=Terminated(code=0, finished_at=990.0))
FAILED = replace(RUNNING, state=Terminated(code=3, finished_at=990.0), retry_at=990.0)
INIT = Container(name="i", init=True)
INIT_RUNNING = replace(INIT, attempt=0, state=Running(900.0))
INIT_DONE = replace(INIT, attempt=0, state=Terminated(code=0, finished_at=950.0))
INIT_FAILED = replace(INIT, attempt=0, state=Terminated(code=1, finished_at=950.0))
START, TERMINATE, KILL = (Action(verb, "c") for verb in (Verb.START, Verb.TERMINATE, Verb.KILL))
DELETED = Stop(reason=StopReason.DELETED, message="", grace=30.0)
SIDECAR = Container(name="s", init=True, sidecar=True)
SIDECAR_RUNNING = replace(SIDECAR, attempt=0, state=Running(900.0), ready=True, started=True)
SIDECAR_FAILED = replace(SIDECAR_RUNNING, state=Terminated(code=1, finished_at=990.0), retry_at=990.0)


def act(text: str) -> Action:
    """An action from words, such as `start s`."""
    verb, container = text.split()
    return Action(Verb(verb), container)


def pod(policy: str = "Never", **spec) -> dict:
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "x"}], **spec},
    }


@pytest.mark.parametrize(
    ("policy", "containers", "stop", "expected"),
    [
        pytest.param("Never", [FRESH], None, Plan((START,)), id="a new container starts"),
        pytest.param("Never", [RUNNING], None, Plan(), id="a running one is left alone"),
        pytest.param("Never", [FAILED], None, Plan(), id="never means never"),
        pytest.param("OnFailure", [FAILED], None, Plan((START,)), id="a failure is repeated on failure"),
        pytest.param("OnFailure", [DONE], None, Plan(), id="a success is not repeated on failure"),
        pytest.param("Always", [DONE], None, Plan((START,)), id="always repeats a success"),
        pytest.param(
            "Always", [replace(FAILED, retry_at=1005.0)], None, Plan((), 1005.0), id="back-off is waited for"
        ),
        pytest.param("Never", [INIT, FRESH], None, Plan((Action(Verb.START, "i"),)), id="init goes first"),
        pytest.param("Never", [INIT_RUNNING, FRESH], None, Plan(), id="the rest waits for a running init"),
        pytest.param("Never", [INIT_DONE, FRESH], None, Plan((START,)), id="then the container starts"),
        pytest.param("Never", [INIT_FAILED, FRESH], None, Plan(), id="a failed init ends the pod"),
        pytest.param(
            "Always",
            [INIT_FAILED, FRESH],
            None,
            Plan((Action(Verb.START, "i"),)),
            id="unless it may be repeated",
        ),
        pytest.param("Never", [FRESH], DELETED, Plan(), id="a deleted pod starts nothing"),
        pytest.param("Never", [RUNNING], DELETED, Plan((TERMINATE,), 1030.0), id="deletion asks politely"),
        pytest.param(
            "Never", [replace(RUNNING, signalled_at=990.0)], DELETED, Plan((), 1020.0), id="once, then waits"
        ),
        pytest.param(
            "Never",
            [replace(RUNNING, signalled_at=970.0)],
            DELETED,
            Plan((KILL,)),
            id="and kills after the grace period",
        ),
        pytest.param(
            "Never", [RUNNING], replace(DELETED, grace=0.0), Plan((KILL,)), id="no grace period, no question"
        ),
        pytest.param(
            "Always",
            [replace(RUNNING, unhealthy=True)],
            None,
            Plan((TERMINATE,), 1030.0),
            id="a sick container is stopped",
        ),
        pytest.param("Never", [SIDECAR, FRESH], None, Plan((act("start s"),)), id="a sidecar goes first"),
        pytest.param(
            "Never",
            [replace(SIDECAR_RUNNING, started=False), FRESH],
            None,
            Plan(),
            id="its startup probe is waited for",
        ),
        pytest.param("Never", [SIDECAR_RUNNING, FRESH], None, Plan((START,)), id="its end is not waited for"),
        pytest.param(
            "Never",
            [SIDECAR_FAILED, INIT, FRESH],
            None,
            Plan((act("start s"),)),
            id="a sidecar that fails holds up init containers after it",
        ),
        pytest.param(
            "Never",
            [SIDECAR_RUNNING, INIT_RUNNING, FRESH],
            None,
            Plan(),
            id="init containers may run beside a sidecar",
        ),
        pytest.param(
            "Never",
            [SIDECAR_FAILED, RUNNING],
            None,
            Plan((act("start s"),)),
            id="a sidecar is started again whatever the pod's policy",
        ),
        pytest.param(
            "Never",
            [SIDECAR_RUNNING, replace(SIDECAR_RUNNING, name="t"), DONE],
            None,
            Plan((act("terminate t"),), 1030.0),
            id="sidecars stop after the main containers, the last one first",
        ),
        pytest.param(
            "Never",
            [SIDECAR_RUNNING, INIT_FAILED, FRESH],
            None,
            Plan((act("terminate s"),), 1030.0),
            id="and after an init container that failed",
        ),
        pytest.param(
            "Never",
            [SIDECAR_RUNNING, RUNNING],
            DELETED,
            Plan((TERMINATE,), 1030.0),
            id="a deleted pod's sidecars serve its main containers to their end",
        ),
        pytest.param(
            "Never",
            [replace(SIDECAR_RUNNING, signalled_at=999.0), replace(DONE, signalled_at=970.0)],
            DELETED,
            Plan((), 1001.0),
            id="then they have what is left of the grace period, two seconds at least",
        ),
        pytest.param(
            "Never",
            [SIDECAR_RUNNING, RUNNING],
            replace(DELETED, grace=0.0),
            Plan((act("kill s"), KILL)),
            id="without a grace period all are killed at once",
        ),
        pytest.param(
            "Never",
            [RUNNING],
            replace(DELETED, not_before=1060.0),
            Plan((), 1060.0),
            id="a slow node does nothing yet",
        ),
    ],
)
def test_plan(policy: str, containers: list[Container], stop: Stop | None, expected: Plan) -> None:
    assert plan(pod(policy), containers, NOW, stop) == expected


def test_a_deleted_pod_stops_with_the_grace_period_of_the_deletion() -> None:
    deleted = pod(terminationGracePeriodSeconds=60)
    deleted["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}
    assert stop_order(deleted, NOW, NOW) == Stop(reason=StopReason.DELETED, message="", grace=5.0)


def test_a_node_that_a_test_has_slowed_down_takes_note_of_a_deletion_late() -> None:
    deleted = pod()
    deleted["metadata"] |= {
        "deletionTimestamp": "1970-01-01T00:16:40Z",  # asked for at 995, with 5 seconds of grace
        "deletionGracePeriodSeconds": 5,
        "annotations": {DELAY_ANNOTATION: "60"},
    }
    stop = stop_order(deleted, NOW, NOW)
    assert stop is not None
    assert stop.not_before == 1055.0


def test_a_pod_stops_at_its_deadline_and_not_before() -> None:
    limited = pod(activeDeadlineSeconds=10, terminationGracePeriodSeconds=2)
    assert stop_order(limited, NOW + 9.9, NOW) is None
    stop = stop_order(limited, NOW + 10, NOW)
    assert stop is not None
    assert (stop.reason, stop.grace) == (StopReason.DEADLINE, 2.0)


def test_only_the_nodes_own_eviction_stops_a_pod() -> None:
    evicted = pod()
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "TerminationByKubelet",
        "message": "full",
    }
    evicted["status"] = {"conditions": [condition]}
    assert stop_order(evicted, NOW, NOW) == Stop(reason=StopReason.EVICTED, message="full", grace=30.0)
    condition["reason"] = "EvictionByEvictionAPI"
    assert stop_order(evicted, NOW, NOW) is None


@pytest.mark.parametrize(
    ("policy", "containers", "stop", "expected"),
    [
        ("Never", [FRESH], None, "Pending"),
        ("Never", [INIT_RUNNING, FRESH], None, "Pending"),
        ("Never", [INIT_FAILED, FRESH], None, "Failed"),
        ("Never", [RUNNING], None, "Running"),
        ("Never", [DONE], None, "Succeeded"),
        ("Never", [FAILED], None, "Failed"),
        ("Never", [DONE, replace(FAILED, name="d")], None, "Failed"),
        ("Never", [RUNNING, replace(FAILED, name="d")], None, "Running"),
        ("OnFailure", [FAILED], None, "Running"),
        ("OnFailure", [DONE], None, "Succeeded"),
        ("Always", [DONE], None, "Running"),
        ("Always", [replace(FAILED, state=Waiting("CreateContainerConfigError"))], None, "Running"),
        ("Always", [RUNNING], DELETED, "Running"),
        ("Always", [FAILED], DELETED, "Failed"),
        ("Always", [DONE], DELETED, "Succeeded"),
        ("Never", [FRESH], DELETED, "Failed"),
        ("Never", [SIDECAR, FRESH], None, "Pending"),
        ("Never", [replace(SIDECAR_RUNNING, started=False), FRESH], None, "Pending"),
        ("Never", [SIDECAR_RUNNING, RUNNING], None, "Running"),
        ("Never", [SIDECAR_FAILED, RUNNING], None, "Running"),
        ("Never", [SIDECAR_RUNNING, DONE], None, "Running"),
        ("Never", [SIDECAR_FAILED, DONE], None, "Succeeded"),
        ("Never", [replace(SIDECAR_FAILED, state=Terminated(code=0)), FAILED], None, "Failed"),
        ("Never", [SIDECAR_RUNNING, INIT_FAILED, FRESH], None, "Pending"),
        ("Never", [SIDECAR_FAILED, INIT_FAILED, FRESH], None, "Failed"),
        ("OnFailure", [SIDECAR_FAILED, DONE], DELETED, "Succeeded"),
    ],
)
def test_phase(policy: str, containers: list[Container], stop: Stop | None, expected: str) -> None:
    assert phase(containers, policy, stop) == expected


def test_the_whole_status_of_a_failed_pod() -> None:
    ended = replace(
        RUNNING,
        state=Terminated(
            code=137, signal=9, reason="OOMKilled", message="m", started_at=900, finished_at=990
        ),
    )
    where = Address(pod_ip="127.0.2.10", host_ip="127.0.1.3", started_at=880.0)
    assert pod_status(pod(), [ended], where, None, NOW) == {
        "phase": "Failed",
        "conditions": [
            condition("PodReadyToStartContainers", "False", None),
            condition("Initialized", "True", None),
            condition("Ready", "False", "PodFailed"),
            condition("ContainersReady", "False", "PodFailed"),
        ],
        "hostIP": "127.0.1.3",
        "hostIPs": [{"ip": "127.0.1.3"}],
        "podIP": "127.0.2.10",
        "podIPs": [{"ip": "127.0.2.10"}],
        "startTime": "1970-01-01T00:14:40Z",
        "qosClass": "BestEffort",
        "containerStatuses": [
            {
                "name": "c",
                "image": "x",
                "imageID": "devcluster://x",
                "containerID": "devcluster://u/c/0",
                "ready": False,
                "started": False,
                "restartCount": 0,
                "state": {
                    "terminated": {
                        "exitCode": 137,
                        "signal": 9,
                        "reason": "OOMKilled",
                        "message": "m",
                        "startedAt": "1970-01-01T00:15:00Z",
                        "finishedAt": "1970-01-01T00:16:30Z",
                    }
                },
                "lastState": {},
            }
        ],
    }


def condition(kind: str, status: str, reason: str | None) -> dict:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": None,
        "lastProbeTime": None,
        "lastTransitionTime": "1970-01-01T00:16:40Z",
    }


def test_a_condition_keeps_its_transition_time_until_it_changes() -> None:
    where = Address(pod_ip="127.0.2.10", host_ip="127.0.1.3", started_at=880.0)
    before = {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:01Z"}
    known = {**pod(), "status": {"conditions": [before]}}
    times = {
        ready: conditions(pod_status(known, [replace(RUNNING, ready=ready)], where, None, NOW))["Ready"]
        for ready in (True, False)
    }
    assert times[True]["lastTransitionTime"] == "1970-01-01T00:00:01Z"
    assert times[False]["lastTransitionTime"] == "1970-01-01T00:16:40Z"
    assert times[False]["message"] == "containers with unready status: [c]"


def conditions(status: dict) -> dict[str, dict]:
    return {item["type"]: item for item in status["conditions"]}


WHERE = Address(pod_ip="127.0.2.10", host_ip="127.0.1.3", started_at=880.0)


def test_containers_are_told_in_the_order_of_their_names_and_init_containers_in_theirs() -> None:
    names = ("pytorch", "istio-proxy", "metrics")
    inits = [replace(INIT_DONE, name="z"), replace(SIDECAR_RUNNING, name="a")]
    told = pod_status(pod(), [*inits, *(replace(RUNNING, name=name) for name in names)], WHERE, None, NOW)
    assert [item["name"] for item in told["containerStatuses"]] == ["istio-proxy", "metrics", "pytorch"]
    assert [item["name"] for item in told["initContainerStatuses"]] == ["z", "a"]


def test_a_pod_whose_work_is_done_beside_a_running_sidecar_is_running_and_not_ready() -> None:
    done = pod_status(pod(), [replace(RUNNING, name="a-sidecar"), DONE], WHERE, None, NOW)
    ready = conditions(done)["Ready"]
    assert (done["phase"], ready["status"], ready["message"]) == (
        "Running",
        "False",
        "containers with unready status: [c]",
    )
    assert [("terminated" in item["state"], item["ready"]) for item in done["containerStatuses"]] == [
        (False, True),
        (True, False),
    ]


def test_a_native_sidecar_is_ready_and_started_as_a_container_is() -> None:
    told = pod_status(pod(), [SIDECAR_RUNNING, INIT_DONE, RUNNING], WHERE, None, NOW)
    shown = {item["name"]: (item["ready"], item["started"]) for item in told["initContainerStatuses"]}
    assert shown == {"s": (True, True), "i": (True, False)}
    unready = pod_status(pod(), [replace(SIDECAR_RUNNING, ready=False), RUNNING], WHERE, None, NOW)
    assert conditions(unready)["Ready"]["message"] == "containers with unready status: [s]"
    starting = pod_status(pod(), [replace(SIDECAR_RUNNING, started=False), FRESH], WHERE, None, NOW)
    assert conditions(starting)["Initialized"]["status"] == "False"
    again = pod_status(pod(), [SIDECAR_FAILED, RUNNING], WHERE, None, NOW)
    assert conditions(again)["Initialized"]["status"] == "True"


def test_a_pod_is_ready_to_start_containers_from_its_volumes_to_its_end() -> None:
    unmounted = Container(name="c", state=Waiting("ContainerCreating", 'secret "s3" not found'))
    pulling = Container(name="c", state=Waiting("ErrImagePull", "no such image"))
    told = [pod_status(pod(), [item], WHERE, None, NOW) for item in (unmounted, pulling, RUNNING, DONE)]
    sandbox = [conditions(item)["PodReadyToStartContainers"]["status"] for item in told]
    assert sandbox == ["False", "True", "True", "False"]
    assert told[0]["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_a_crash_loop_is_shown_with_the_last_end() -> None:
    looping = replace(FAILED, retry_at=1010.0)
    where = Address(pod_ip="127.0.2.10", host_ip="127.0.1.3", started_at=880.0)
    shown = pod_status(pod("Always"), [looping], where, None, NOW)["containerStatuses"][0]
    assert shown["state"] == {
        "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container=c"}
    }
    assert shown["lastState"]["terminated"]["exitCode"] == 3


def test_an_init_container_that_succeeded_at_last_is_shown_as_done() -> None:
    late = replace(INIT_DONE, attempt=2, retry_at=970.0)
    where = Address(pod_ip="127.0.2.10", host_ip="127.0.1.3", started_at=880.0)
    shown = pod_status(pod("Always"), [late, RUNNING], where, None, NOW)["initContainerStatuses"][0]
    assert (shown["ready"], shown["restartCount"], shown["state"]["terminated"]["exitCode"]) == (True, 2, 0)


def test_back_off_doubles_to_its_limit_and_a_long_run_resets_it() -> None:
    waits, item = [], FRESH
    for _ in range(7):
        wait, following = next_back_off(item, ran_for=1.0, base=10.0)
        waits.append(wait)
        item = replace(item, back_off=following)
    assert waits == [0, 10, 20, 40, 80, 160, 300]
    assert next_back_off(item, ran_for=601.0, base=10.0) == (0.0, 10.0)


@pytest.mark.parametrize(
    "item", [FRESH, RUNNING, FAILED, SIDECAR, replace(FAILED, last=Terminated(code=1), signalled_at=1.0)]
)
def test_the_record_on_disk_round_trips(item: Container) -> None:
    assert from_json(to_json(item)) == item


def test_a_container_of_an_earlier_agent_is_lost_but_its_recorded_end_is_kept() -> None:
    gone = lost(RUNNING, NOW).terminated
    assert gone is not None
    assert (gone.code, gone.reason, gone.started_at) == (137, LOST, 900.0)
    assert lost(RUNNING, NOW, Terminated(code=4)).terminated == Terminated(code=4)
    assert lost(DONE, NOW) == DONE


def test_without_a_record_what_the_api_server_believes_to_run_is_lost() -> None:
    believed = {
        **pod(),
        "status": {"containerStatuses": [{"name": "c", "restartCount": 2, "state": {"running": {}}}]},
    }
    (item,) = from_status(believed, NOW)
    assert item.terminated is not None
    assert (item.attempt, item.terminated.reason) == (2, LOST)
    assert from_status(pod(), NOW) == declared(pod())


def test_only_an_init_container_that_always_restarts_is_a_sidecar() -> None:
    inits = [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]
    assert [(item.name, item.init, item.sidecar) for item in declared(pod(initContainers=inits))] == [
        ("i", True, False),
        ("s", True, True),
        ("c", False, False),
    ]
