"""What another version wrote is read as far as it can be."""

from __future__ import annotations

import pytest

from mochi_api import heartbeat
from mochi_api.heartbeat import Heartbeat
from mochi_api.outcomes import Outcome, Reason
from mochi_api.reading import lenient
from mochi_api.status import FineTuneStatus

CONDITION = {
    "type": "Accepted",
    "status": "True",
    "reason": "Accepted",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def test_unknown_fields_count_as_absent() -> None:
    found = lenient(
        FineTuneStatus, {"phase": "Training", "new": {"a": 1}, "training": {"step": 3, "pace": "x"}}
    )
    assert found is not None
    assert (found.phase, found.training.step if found.training is not None else None) == ("Training", 3)


def test_a_value_that_is_not_known_costs_only_itself() -> None:
    found = lenient(FineTuneStatus, {"phase": "Dreaming", "training": {"step": "many", "totalSteps": 9}})
    assert found is not None
    assert found.training is not None
    assert (found.phase, found.training.step, found.training.total_steps) == ("Pending", 0, 9)


def test_a_list_item_without_what_it_needs_costs_only_the_item() -> None:
    items = [CONDITION, {"type": "Half"}, {**CONDITION, "status": "Perhaps"}, {**CONDITION, "type": "Failed"}]
    found = lenient(FineTuneStatus, {"conditions": items})
    assert found is not None
    assert [item.type for item in found.conditions] == ["Accepted", "Failed"]


@pytest.mark.parametrize("raw", [None, 3, "text", [], {"conditions": "none"}, {"training": [1, 2]}])
def test_a_status_that_is_none_reads_as_an_empty_one_or_not_at_all(raw: object) -> None:
    found = lenient(FineTuneStatus, raw)
    assert found is None or found == FineTuneStatus()


def test_an_outcome_with_a_reason_of_a_newer_trainer_keeps_its_message() -> None:
    found = lenient(Outcome, {"reason": "DatasetTooSmall", "message": "only one clip", "hint": "x"})
    assert found == Outcome(reason=Reason.UNKNOWN, message="only one clip")


def test_an_outcome_without_a_reason_is_none() -> None:
    assert lenient(Outcome, {"message": "only one clip"}) is None


def test_a_heartbeat_comes_back_out_of_a_log() -> None:
    sent = Heartbeat(attempt=2, activity="training", quiet_seconds=1.5, done=7, total=20, loss=0.25)
    log = f"noise\n{Heartbeat(attempt=2, activity='loading', quiet_seconds=0).to_line()}\n2026 {sent.to_line()}\nmore"
    assert heartbeat.newest(log) == sent


@pytest.mark.parametrize(
    "lie",
    [
        '"lastStepTime":1e20',
        '"done":1e30',
        '"done":-1',
        '"loss":Infinity',
        '"stepSeconds":NaN',
        '"quietSeconds":1e300,"done":4',
    ],
)
def test_a_lying_peer_costs_nothing(lie: str) -> None:
    found = heartbeat.parse(f'{{"attempt":1,"activity":"training","quietSeconds":2,{lie}}}')
    assert found is None or found.model_copy(update={"done": 0}) == Heartbeat(
        attempt=1, activity="training", quiet_seconds=2
    )


@pytest.mark.parametrize(
    "garbage", ["", "{", "[]", "null", '"x"', "[" * 10_000, b"\xff\xfe", '{"attempt":1}']
)
def test_what_is_no_heartbeat_is_none(garbage: str | bytes) -> None:
    assert heartbeat.parse(garbage) is None
