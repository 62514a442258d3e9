"""What the watch makes of the API server's answers."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from demo.deadline import Deadline, DeadlineError
from demo.kubectl import Kubectl, KubectlError
from demo.watch import End, Point, end, follow, parse_event, with_loss
from mochi_api.status import FineTuneStatus, TrainingStatus

NOW = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str, reason: str = "Completed", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def status(*conditions: dict[str, str], **fields: object) -> FineTuneStatus:
    return FineTuneStatus.model_validate({"conditions": list(conditions), **fields})


def training(step: int, loss: str) -> FineTuneStatus:
    return FineTuneStatus(training=TrainingStatus(step=step, total_steps=10, loss=loss))


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    """A kubectl that answers `get mochifinetunes` with the next line of `answers`, an empty line being an error."""
    program = tmp_path / "kubectl"
    program.write_text(
        "#!/bin/bash\n"
        f"cd {tmp_path}\n"
        'case "$*" in *events*) echo \'{"items": []}\'; exit;; esac\n'
        "line=$(head -n 1 answers); sed -i 1d answers\n"
        '[ -n "$line" ] || { echo "connection refused" >&2; exit 1; }\n'
        'echo "$line"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return Kubectl(binary=str(program), kubeconfig=None, namespace="demo")


def answers(kubectl: Kubectl, *statuses: FineTuneStatus | None) -> None:
    lines = [
        ""
        if one is None
        else json.dumps({"metadata": {"uid": "u"}, "spec": {"mode": "lora"}, "status": one.to_wire()})
        for one in statuses
    ]
    (Path(kubectl.binary).parent / "answers").write_text("\n".join(lines) + "\n")


def test_a_run_goes_on_until_succeeded_or_failed_is_true() -> None:
    assert end(status()) is None
    assert end(status(condition("Succeeded", "Unknown"), condition("Failed", "False"))) is None
    assert end(status(condition("Succeeded", "True"))) == End(True, "Completed", "")
    assert end(status(condition("Failed", "True", "MissingObject", "no bucket"))) == End(
        False, "MissingObject", "no bucket"
    )


def test_a_run_that_is_given_up_has_ended_too() -> None:
    given_up = status(
        condition("Accepted", "False", "InvalidSpec"), condition("Stalled", "True", "InvalidSpec", "x")
    )
    assert end(given_up) == End(False, "InvalidSpec", "x")


def test_the_action_of_a_failure_comes_from_the_table_of_reasons() -> None:
    assert "upload the object" in End(False, "MissingObject", "").action
    assert "Events" in End(False, "SomethingNew", "").action


def test_a_loss_that_is_not_finite_is_not_plotted() -> None:
    assert with_loss((), training(3, "NaN")) == ()
    assert with_loss((), training(3, "")) == ()
    assert with_loss((), training(3, "0.5")) == (Point(3, 0.5),)


def test_a_resumed_attempt_replaces_the_losses_after_its_checkpoint() -> None:
    before = (Point(2, 0.9), Point(4, 0.8), Point(6, 0.7))
    assert with_loss(before, training(4, "0.85")) == (Point(2, 0.9), Point(4, 0.85))


def test_an_event_has_a_time_in_both_apis() -> None:
    old = {"metadata": {"creationTimestamp": NOW}, "lastTimestamp": "2026-01-01T00:00:05Z", "reason": "R"}
    new = {"metadata": {"creationTimestamp": NOW}, "eventTime": "2026-01-01T00:00:07.000000Z", "reason": "R"}
    bare = {"metadata": {"creationTimestamp": NOW}, "reason": "R"}
    assert [parse_event(raw).time.second for raw in (old, new, bare)] == [5, 7, 0]


def test_following_ends_with_the_ended_run_and_keeps_the_losses(kubectl: Kubectl) -> None:
    ended = status(condition("Succeeded", "True"), training={"step": 10, "totalSteps": 10, "loss": "0.2"})
    answers(kubectl, FineTuneStatus(), training(5, "0.5"), ended)
    seen = list(follow(kubectl, "bunny", Deadline(20), interval=0))
    assert [one.losses for one in seen] == [(), (Point(5, 0.5),), (Point(5, 0.5), Point(10, 0.2))]


def test_following_bears_an_api_server_that_is_silent_for_a_moment(kubectl: Kubectl) -> None:
    answers(kubectl, FineTuneStatus(), None, None, status(condition("Failed", "True", "Bug")))
    assert len(list(follow(kubectl, "bunny", Deadline(20), interval=0))) == 2


def test_following_ends_at_the_deadline(kubectl: Kubectl) -> None:
    answers(kubectl, *[FineTuneStatus()] * 50)
    with pytest.raises(DeadlineError, match="MochiFineTune bunny: not done within the limit of 1 s"):
        list(follow(kubectl, "bunny", Deadline(1), interval=0.2))


def test_a_kubectl_error_has_the_command_and_what_was_said(kubectl: Kubectl) -> None:
    answers(kubectl, None)
    with pytest.raises(KubectlError, match="kubectl get mft: connection refused"):
        kubectl.run("get", "mft")


def test_a_kubectl_that_hangs_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/bash\nexec sleep 30\n")
    program.chmod(0o755)
    with pytest.raises(KubectlError, match="no answer within 0 s"):
        Kubectl(binary=str(program), kubeconfig=None, namespace="demo").run("get", "mft", seconds=0.2)
