"""The progress server tells what training knows, never stops it, and gives up its port quietly when that is taken."""

from __future__ import annotations

import json
import math
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mochi_api import heartbeat
from mochi_api.metrics import TRAINER_METRICS
from mochi_api.progress import Progress
from mochi_trainer.movement import Movement
from mochi_trainer.train.gauges import Gauges
from mochi_trainer.train.server import served
from mochi_trainer.train.step import StepRecord


def record(step: int, loss: float) -> StepRecord:
    return StepRecord(step=step, loss=loss, gradient_norm=2.0, learning_rate=0.1, seconds=0.5)


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=5) as answer:
        return answer.read().decode()


def test_progress_is_the_document_of_the_contract() -> None:
    gauges = Gauges(total_steps=10)
    gauges.stepped(record(1, 4.0), non_finite=0)
    gauges.saved(1, "s3://runs/x", 2.5)
    with served(gauges, Movement(), progress=True, address="127.0.0.1", port=0) as address:
        document = json.loads(read(f"{address}/progress"))
    progress = Progress.model_validate(document)
    assert (progress.step, progress.total_steps, progress.loss, progress.grad_norm) == (1, 10, 4.0, 2.0)
    assert (progress.step_seconds, progress.checkpoint_step, progress.checkpoint_uri) == (
        0.5,
        1,
        "s3://runs/x",
    )


def test_a_loss_that_is_no_number_is_null() -> None:
    gauges = Gauges(total_steps=10)
    gauges.stepped(record(1, math.nan), non_finite=1)
    with served(gauges, Movement(), progress=True, address="127.0.0.1", port=0) as address:
        document = json.loads(read(f"{address}/progress"))
    assert (document["loss"], document["nonFinite"]) == (None, 1)


def test_metrics_have_the_names_of_the_contract() -> None:
    gauges = Gauges(total_steps=10)
    gauges.stepped(record(1, 4.0), non_finite=0)
    gauges.stepped(record(2, math.inf), non_finite=1)
    with served(gauges, Movement(), progress=False, address="127.0.0.1", port=0) as address:
        families = {
            family.name: family for family in text_string_to_metric_families(read(f"{address}/metrics"))
        }
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(f"{address}/progress")
    assert {metric.name.removesuffix("_total") for metric in TRAINER_METRICS} == {
        name for name in families if not name.endswith("_created")
    }
    bad = {
        s.labels["what"]: s.value
        for s in families["mochi_train_nonfinite"].samples
        if s.name.endswith("_total")
    }
    assert bad == {"loss": 1.0, "gradient": 0.0}
    assert math.isinf(families["mochi_train_loss"].samples[0].value)
    assert families["mochi_train_loss_ema"].samples[0].value == 4.0


def test_a_step_in_half_of_the_time_it_could_take_has_an_mfu_of_a_half() -> None:
    gauges = Gauges(total_steps=10)
    gauges.ideal(0.25)
    gauges.stepped(record(1, 4.0), non_finite=0)
    assert "mochi_train_mfu_ratio 0.5" in gauges.exposition().decode()


def test_a_taken_port_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with served(
            Gauges(total_steps=1), Movement(), progress=True, address="127.0.0.1", port=other.getsockname()[1]
        ) as address:
            assert address is None
    assert "Address already in use" in caplog.text


def test_a_client_that_says_nothing_holds_nobody_up() -> None:
    with served(Gauges(total_steps=1), Movement(), progress=True, address="127.0.0.1", port=0) as address:
        assert address is not None
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))):
            assert json.loads(read(f"{address}/progress"))["totalSteps"] == 1


class Clock:
    """A clock that a test turns."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_the_heartbeat_has_ages_and_what_training_knows() -> None:
    clock = Clock()
    gauges, movement = Gauges(total_steps=10, clock=clock), Movement(clock=clock)
    movement.attempt = 2
    gauges.stepped(record(1, 4.0), non_finite=0)
    gauges.saved(1, "s3://runs/x", 2.5)
    clock.now += 3
    gauges.stepped(record(2, math.nan), non_finite=1)
    movement.doing("training")
    clock.now += 4
    with (
        movement.described(gauges.signs),
        served(gauges, movement, progress=True, address="127.0.0.1", port=0) as address,
    ):
        assert heartbeat.parse(read(f"{address}{heartbeat.PATH}")) == heartbeat.Heartbeat(
            attempt=2,
            activity="training",
            quiet_seconds=4,
            done=2,
            total=10,
            loss=None,
            grad_norm=2.0,
            step_seconds=0.5,
            step_age_seconds=4,
            checkpoint_step=1,
            checkpoint_uri="s3://runs/x",
            checkpoint_age_seconds=7,
            non_finite=1,
        )


def test_progress_keeps_the_fields_that_an_older_operator_knows() -> None:
    """It refuses any other."""
    with served(Gauges(total_steps=1), Movement(), progress=True, address="127.0.0.1", port=0) as address:
        assert set(json.loads(read(f"{address}/progress"))) == {
            "step", "totalSteps", "loss", "gradNorm", "stepSeconds", "lastStepTime", "checkpointStep", "checkpointUri",
            "checkpointTime", "nonFinite",
        }  # fmt: skip


def test_other_ranks_have_no_heartbeat() -> None:
    with (
        served(Gauges(total_steps=1), Movement(), progress=False, address="127.0.0.1", port=0) as address,
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        read(f"{address}{heartbeat.PATH}")
