"""metrics.jsonl goes on after a resume without gap or repetition."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from mochi_trainer.storage.local import LocalStore
from mochi_trainer.train.evaluation import Losses
from mochi_trainer.train.series import Series
from mochi_trainer.train.step import StepRecord


def record(step: int, loss: float = 1.0) -> StepRecord:
    return StepRecord(
        step=step,
        loss=loss,
        gradient_norm=2.0,
        learning_rate=0.1,
        seconds=0.5,
        data_seconds=0.25,
        by_sigma=(None, 1.5),
    )


def lines(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def test_a_line_has_all_numbers_of_a_step(tmp_path: Path) -> None:
    series = Series(LocalStore(tmp_path), clock=lambda: 12.0)
    series.add_fixed_loss(0, 3.0)
    series.add(record(1, float("nan")))
    series.add_fixed_loss(1, 2.5)
    series.add_held_out(1, Losses(2.0, (1.0, float("inf")), 8))
    series.upload()
    assert lines(tmp_path) == [
        {"step": 0, "fixedLoss": 3.0, "time": 12.0},
        {
            "step": 1,
            "loss": None,
            "lr": 0.1,
            "gradNorm": 2.0,
            "stepSeconds": 0.5,
            "dataSeconds": 0.25,
            "lossBySigma": [None, 1.5],
            "time": 12.0,
            "fixedLoss": 2.5,
            "heldOutLoss": 2.0,
            "heldOutBySigma": [1.0, None],
            "heldOutLevels": 8,
        },
    ]
    assert series.fixed_losses == {0: 3.0, 1: 2.5}
    assert series.held_out_losses == {1: 2.0}


def test_a_resume_drops_the_lines_after_its_step(tmp_path: Path) -> None:
    first = Series(LocalStore(tmp_path))
    for step in range(1, 6):
        first.add(record(step))
    first.upload()
    second = Series(LocalStore(tmp_path))
    second.resume(3)
    second.add(record(4, 9.0))
    second.upload()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 9.0),
    ]


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo')
    series = Series(LocalStore(tmp_path))
    series.resume(5)
    series.upload()
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_uploads_keep_their_distance(tmp_path: Path) -> None:
    now = [0.0]
    wall = itertools.cycle([0.0, -1e9, 1e9])  # a clock that is set, on some machines more than once
    series = Series(LocalStore(tmp_path), clock=lambda: next(wall), elapsed=lambda: now[0])
    stored = []
    for step in range(1, 61):
        now[0] += 1
        series.add(record(step))
        series.upload_if_due()
        stored.append(len(lines(tmp_path)))
    assert sorted(set(stored)) == [1, 21, 41]


DAMAGED = {
    "no UTF-8": b"\xff\xfe",
    "no JSON": b"{",
    "no object": b"[1]",
    "nested too deeply": b"[" * 100_000,
    "no step": b'{"loss": 1.0}',
    "a text for a step": b'{"step": "2", "loss": 1.0}',
    "a text for a loss": b'{"step": 2, "loss": "1.0"}',
    "no number": b'{"step": 2, "heldOutLoss": NaN}',
    "too large a number": b'{"step": 2, "loss": 1%s}' % (b"0" * 400),
    "a number for a list": b'{"step": 2, "lossBySigma": 3}',
    "texts in a list": b'{"step": 2, "heldOutBySigma": ["a"]}',
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_line_is_left_out_and_the_others_stay(case: str, tmp_path: Path) -> None:
    first = Series(LocalStore(tmp_path))
    for step in (1, 3):
        first.add(record(step, float(step)))
    first.upload()
    whole = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([whole[0], DAMAGED[case], whole[1]]))
    series = Series(LocalStore(tmp_path))
    series.resume(3)
    series.upload()
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]
    assert series.losses == [1.0, 3.0]
    assert series.seconds == 1.0
