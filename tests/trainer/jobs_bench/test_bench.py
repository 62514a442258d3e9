"""The command bench: rows as they come, within the time, of steps that are a training's own."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mochi_api.prediction import flops
from mochi_api.prediction.gpus import GPUS
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.work import work_of_run
from mochi_trainer.__main__ import main
from mochi_trainer.data import Dataset
from mochi_trainer.jobs.bench import command, counted, timed
from mochi_trainer.jobs.bench.cases import KEY, SUSTAINED, USUAL, Case, cases, run_of
from mochi_trainer.jobs.bench.inputs import CLIPS, write_clips
from mochi_trainer.jobs.bench.table import Column, Table


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "bench.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_nano_is_measured_on_a_cpu_in_both_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "nano", "--case", "lora:7", "--case", "full:7", "--minutes", "4"]
    assert main(["bench", *arguments, "--out", str(tmp_path / "out")]) == 0
    found = rows(tmp_path / "out")
    assert [(row["mode"], row["frames"], row["note"]) for row in found] == [
        ("lora", "7", ""),
        ("full", "7", ""),
    ]
    for row in found:
        assert 1 <= int(row["steps"]) <= SUSTAINED
        assert 0 < float(row["seconds_median"]) <= float(row["seconds_most"])
        assert math.isfinite(float(row["loss"]))
        tokens = work_of_run(run_of(Case("lora", 7), "nano", tmp_path, gpus=0)).tokens
        assert float(row["tokens_per_second"]) == pytest.approx(tokens / float(row["seconds_mean"]))
        assert (row["attention"], row["mfu"], row["allocated_gib"]) == (
            "cpu",
            "",
            "",
        )  # no GPU, no share of it
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "out" / "bench.md").read_text()
    assert "bench --preset nano --case lora:7 --case full:7 --minutes 4" in shown


def test_a_row_is_on_the_disk_before_the_next_case_begins(tmp_path: Path) -> None:
    columns = (Column("mode", "mode"), Column("seconds", "s", "{:.2f}".format), Column("note", "note"))
    table = Table(tmp_path, columns, "title", io.StringIO())
    assert rows(tmp_path) == []
    table.add({"mode": "lora", "seconds": 1.2345})
    assert rows(tmp_path) == [{"mode": "lora", "seconds": "1.2345", "note": ""}]
    table.add({"mode": "full", "note": "a|b"})
    assert (tmp_path / "bench.md").read_text().splitlines()[2:] == [
        "| mode | s | note |", "| --- | --- | --- |", "| lora | 1.23 |  |", "| full |  | a/b |",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.csv", "bench.md"]


def test_a_case_that_fails_costs_no_other_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCHI_ATTENTION", "nothing")
    assert main(["bench", "--preset", "nano", "--out", str(tmp_path)]) == 2
    assert [row["mode"] for row in rows(tmp_path)] == ["lora", "full"]
    assert all(row["note"].startswith("InvalidInput: MOCHI_ATTENTION must be") for row in rows(tmp_path))
    assert "InvalidInput: MOCHI_ATTENTION must be" in capsys.readouterr().err


def test_what_the_time_is_not_enough_for_is_told() -> None:
    device, late = torch.device("cpu"), time.monotonic()
    wanted = cases([], "nano")
    expected = [{"mode": case.mode, "frames": case.frames, "note": command.LATE} for case in wanted]
    assert list(command._timed_rows(wanted, "nano", device, late)) == expected
    wanted = cases([], "mochi-1")
    assert [row["note"] for row in command._counted_rows(wanted, late)] == [command.LATE] * len(wanted)


def test_one_step_is_counted_however_late_it_is() -> None:
    row = timed.measured(Case("lora", 7), "nano", torch.device("cpu"), until=time.monotonic())
    assert row["steps"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "lora",
        "lora:12",
        "lora:",
        "both:37",
        "full:-5",
        "lora:1",
        "full:169",
        "lora:1000003",
        "lora:\uff11\uff13",
        f"lora:{'9' * 5000}",
    ],
)
def test_a_case_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    assert main(["bench", "--case", text, "--out", str(tmp_path / "out")]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(minutes: str, tmp_path: Path) -> None:
    assert main(["bench", "--minutes", minutes, "--out", str(tmp_path / "out")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        assert main(["bench", "--preset", "nano", "--out", str(out)]) == 2
        assert f"--out must be a folder that can be written, got {out}" in capsys.readouterr().err


def test_what_does_not_fit_into_a_gpu_is_told_with_both_numbers() -> None:
    free = GPUS["NVIDIA-H100-80GB-HBM3"].available
    notes = {case: command.lacking(case, "mochi-1", free) for case in USUAL["mochi-1"]}
    assert {case.mode for case, note in notes.items() if note is None} == {"lora"}
    assert {case.mode for case, note in notes.items() if note is not None} == {"full"}
    assert notes[Case("full", 37)] == "does not fit: 156.6 GiB are needed, 78.6 GiB are free"


def test_the_clips_are_read_as_those_of_a_run(tmp_path: Path) -> None:
    run = run_of(Case("lora", 13), "nano", tmp_path, gpus=0)
    write_clips(run)
    with Dataset.open(run) as dataset:
        assert len(dataset) == CLIPS
        sample = dataset.sample(0)
        assert sample.latents.mean.shape == (12, 3, 8, 14)
        assert sample.text.count == 256  # the longest caption
        assert dataset.empty_text().count == 0
    assert run.keys.videos == KEY


def test_without_a_gpu_the_published_model_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    assert main(["bench", "--case", "lora:37", "--minutes", "9", "--out", str(tmp_path)]) == 0
    (row,) = rows(tmp_path)
    work = work_of_run(run_of(Case("lora", 37), "mochi-1", tmp_path, gpus=1))
    executed = flops.step(work, Policy(left_alone=0)).total / 1e15
    assert float(row["pflop_executed"]) == pytest.approx(executed, rel=1e-3)
    assert float(row["pflop_asked"]) < executed
    assert 0 < float(row["tb_between"]) < float(row["tb_moved"])
    assert list(row) == [column.key for column in counted.COLUMNS]
    assert "no GPU is there" in capsys.readouterr().out
