"""The event file is byte for byte what TensorBoard's own writer makes of the same numbers."""

from __future__ import annotations

import json
import math
import random
import struct
from pathlib import Path
from typing import Any

from mochi_trainer.storage.local import LocalStore
from mochi_trainer.train.event_file import EventFile, beginning, event
from mochi_trainer.train.series import Series
from mochi_trainer.train.step import StepRecord

LINES: list[dict[str, Any]] = [
    {"step": 0, "fixedLoss": 3.0, "time": 12.5},
    {"step": 1, "loss": None, "lr": 0.0002, "gradNorm": 2.0, "stepSeconds": 0.5, "time": 13.25, "fixedLoss": 2.5},
    {"step": 300, "loss": 0.75, "time": 14.0},
]  # fmt: skip

THEIRS = bytes.fromhex(
    "1800000000000000a37f4b220900000000000029401a0d627261696e2e4576656e743a326394a44f2600000000000000734fe30009000000"
    "00000029402a1b0a190a12747261696e696e672f66697865644c6f73731500004040b0056a7d73000000000000000d737cc8090000000000"
    "802a4010012a660a120a0b747261696e696e672f6c721517b751390a180a11747261696e696e672f677261644e6f726d15000000400a1b0a"
    "14747261696e696e672f737465705365636f6e6473150000003f0a190a12747261696e696e672f66697865644c6f737315000020405f62a6"
    "e12400000000000000422b804d090000000000002c4010ac022a160a140a0d747261696e696e672f6c6f7373150000403fbc999ea3"
)
"""What `tensorboard.summary.writer.record_writer` and the messages of tensorboard 2.21.0 (protobuf 7.36.2) gave for LINES."""


def test_it_is_what_tensorboard_writes() -> None:
    assert EventFile().content(LINES) == THEIRS


def test_numbers_that_are_null_are_left_out() -> None:
    assert b"training/loss" not in event(LINES[1])
    assert b"training/loss" in event(LINES[2])


def test_each_number_of_a_list_has_its_place_and_a_mark_is_no_number() -> None:
    listed = {"step": 3, "lossBySigma": [0.5, None, 0.25], "checkpoint": True}
    assert event(listed) == event({"step": 3, "lossBySigma/0": 0.5, "lossBySigma/2": 0.25})


def test_what_is_known_is_not_encoded_again_and_what_changed_is() -> None:
    file, lines = EventFile(), [dict(line) for line in LINES]
    before = file.content(lines)
    assert file.content(lines) == before
    lines[2]["fixedLoss"] = 1.5
    assert file.content(lines) == EventFile().content(lines) != before
    assert file.content(lines[:2]) == EventFile().content(lines[:2])  # as after a resume
    assert file.content(lines).startswith(file.content(lines[:2]))  # a reader goes on where it was


def test_long_records_have_lengths_of_several_bytes() -> None:
    draws = random.Random(1)
    line = {"step": 2**40, "time": 1.0} | {f"value{number}": draws.random() for number in range(40)}
    record = event(line)
    (length,) = struct.unpack("<Q", record[:8])
    assert len(record) == 8 + 4 + length + 4
    assert length > 128


def test_it_lies_beside_the_series_with_the_same_steps(tmp_path: Path) -> None:
    series = Series(LocalStore(tmp_path), clock=lambda: 12.0)
    series.add_fixed_loss(0, 3.0)
    series.add(StepRecord(step=1, loss=math.nan, gradient_norm=2.0, learning_rate=0.1, seconds=0.5))
    series.upload()
    found = (tmp_path / "tensorboard" / "events.out.tfevents.0.mochi").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert found == beginning(12.0) + b"".join(map(event, lines))
