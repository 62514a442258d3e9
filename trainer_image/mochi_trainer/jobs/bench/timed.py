"""Steps of one case, timed on the device: the training of a run, with its data, but for what it stores."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch

from mochi_api.prediction import flops
from mochi_api.prediction.fitting import needed
from mochi_api.prediction.gpus import GIB, GPUS
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.work import work_of_run
from mochi_api.runfile import RunFile
from mochi_api.spec import Preset
from mochi_trainer.data import Dataset
from mochi_trainer.jobs.bench.cases import SUSTAINED, WARM_UP, Case, run_of
from mochi_trainer.jobs.bench.inputs import Drawn, write_clips
from mochi_trainer.jobs.bench.table import Cell, Column
from mochi_trainer.jobs.composing import adapters_of, choices_of
from mochi_trainer.parallel.group import Group, joined, time_limit
from mochi_trainer.parallel.ranks import Ranks
from mochi_trainer.presets import preset_named
from mochi_trainer.train.composition import Choices, compose
from mochi_trainer.train.feeding import Training
from mochi_trainer.train.loop import steps

_GIBIBYTES = "{:.1f}".format
_SHARE = "{:.1%}".format
_SECONDS = "{:.3f}".format

COLUMNS = (
    Column("mode", "mode"),
    Column("frames", "frames"),
    Column("steps", "steps"),
    Column("seconds_mean", "s a step", _SECONDS),
    Column("seconds_median", "median", _SECONDS),
    Column("seconds_most", "longest", _SECONDS),
    Column("tokens_per_second", "tokens/s", "{:.0f}".format),
    Column("mfu", "MFU", _SHARE),
    Column("hfu", "HFU", _SHARE),
    Column("allocated_gib", "allocated GiB", _GIBIBYTES),
    Column("reserved_gib", "reserved GiB", _GIBIBYTES),
    Column("predicted_gib", "predicted GiB", _GIBIBYTES),
    Column("attention", "attention"),
    Column("compiler", "compiler"),
    Column("left_alone", "blocks left alone"),
    Column("loss", "last loss"),
    Column("setup_seconds", "s to set up", "{:.0f}".format),
    Column("note", "note"),
)
"""`mfu` and `hfu` are shares of the GPU's speed by its data sheet: of what the model asks for, and of all that is computed."""


def product(device: torch.device) -> str:
    """The GPU, as the node label nvidia.com/gpu.product names it; nothing for a CPU."""
    return torch.cuda.get_device_name(device).replace(" ", "-") if device.type == "cuda" else ""


def measured(case: Case, preset: Preset, device: torch.device, *, until: float) -> Mapping[str, Cell]:
    """A row of the table: the steps done until `time.monotonic()` is `until`, one at least, after the first ones.

    Raises what composing and training raise.
    """
    began = time.monotonic()
    _empty(device)
    with tempfile.TemporaryDirectory(prefix="mochi-bench-") as folder:
        run = run_of(case, preset, Path(folder), gpus=int(device.type == "cuda"))
        with ExitStack() as stack:
            group = stack.enter_context(_group(run, device))
            write_clips(run)
            dataset = stack.enter_context(Dataset.open(run))
            choices = choices_of(run, group, device)
            training = _training(run, choices, dataset, group, device)
            ready = time.monotonic()
            seconds, loss = _timed(training, until)
            return _row(run, choices, seconds, device) | {"loss": loss, "setup_seconds": ready - began}


def _empty(device: torch.device) -> None:
    """Give back the memory that the case before had."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _group(run: RunFile, device: torch.device) -> Iterator[Group]:
    if run.mode == "lora":
        yield Group()
        return
    with joined(Ranks(), device, limit=time_limit()) as group:
        yield group


def _training(
    run: RunFile, choices: Choices, dataset: Dataset, group: Group, device: torch.device
) -> Training:
    preset = preset_named(run.model.preset)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    composed = compose(
        Drawn(preset.dit),
        choices,
        adapters=adapters_of(run),
        spec=run.training,
        group=group,
        device=device,
    )
    return Training(
        model=composed.model,
        optimizer=composed.optimizer,
        average=composed.average,
        synchronise_once=composed.synchronise_once,
        dataset=dataset,
        clips=range(len(dataset.clips)),
        empty=dataset.empty_text(),
        statistics=preset.latents,
        spec=run.training,
        group=group,
        device=device,
    )


def _timed(training: Training, until: float) -> tuple[list[float], float]:
    """Seconds from step to step, with the data of each, and the last loss."""
    seconds: list[float] = []
    loss, last = float("nan"), time.monotonic()
    with closing(steps(training, done=0)) as running:  # type: ignore[type-var]  # it is a generator
        for record in running:
            now = time.monotonic()
            if record.step > WARM_UP:
                seconds.append(now - last)
            loss, last = record.loss, now
            if len(seconds) == SUSTAINED or (seconds and now >= until):
                break
    return seconds, loss


def _row(run: RunFile, choices: Choices, seconds: list[float], device: torch.device) -> dict[str, Cell]:
    work, policy = work_of_run(run), Policy(left_alone=choices.left_alone)
    mean = statistics.fmean(seconds)
    row: dict[str, Cell] = {
        "mode": run.mode,
        "frames": work.frames,
        "steps": len(seconds),
        "seconds_mean": mean,
        "seconds_median": statistics.median(seconds),
        "seconds_most": max(seconds),
        "tokens_per_second": work.tokens / mean,
        "attention": choices.attention.value,
        "compiler": choices.compiler or "none",
        "left_alone": choices.left_alone,
    }
    if device.type == "cuda":
        row |= {
            "allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
            "predicted_gib": needed(work, policy) / GIB,
        }
    if (gpu := GPUS.get(product(device))) is not None:
        speed = gpu.teraflops * 1e12 * mean
        row |= {"mfu": flops.useful(work) / speed, "hfu": flops.step(work, policy).total / speed}
    return row
