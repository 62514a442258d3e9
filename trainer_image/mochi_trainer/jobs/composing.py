"""The model of a run, composed for training as the run file and the environment say."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from mochi_api.prediction.admission import gibibytes
from mochi_api.prediction.storage import storage
from mochi_api.prediction.work import work_of_run
from mochi_api.runfile import RunFile
from mochi_api.spec import BaseWeights, LoraSpec
from mochi_trainer import host_memory
from mochi_trainer.errors import InvalidInputError, OutOfMemoryError
from mochi_trainer.jobs.attention_backend import training_backend
from mochi_trainer.jobs.compiler import training_compiler, usual
from mochi_trainer.jobs.gradient_sums import synchronised_once
from mochi_trainer.jobs.left_alone import blocks_left_alone
from mochi_trainer.jobs.weight_copies import weight_copies
from mochi_trainer.lora import LoraParams, continue_from
from mochi_trainer.lora.files import tensor_names
from mochi_trainer.lora.importing import CONFIG, config_wanted
from mochi_trainer.model import DiT
from mochi_trainer.parallel.devices import compute_type
from mochi_trainer.parallel.group import Group
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import Store, open_store
from mochi_trainer.train.composition import Adapters, Choices, Composed, Stored, compose
from mochi_trainer.weights import WeightsError
from mochi_trainer.weights.lora_files import lora_key
from mochi_trainer.weights.of_run import model_source

log = logging.getLogger(__name__)

NARROW: Mapping[BaseWeights, torch.dtype] = {"Float8": torch.float8_e4m3fn, "Int8": torch.int8}
"""Types of the base's frozen weights, where they are not those of the activations."""


def composed_model(run: RunFile, group: Group, device: torch.device) -> Composed:
    """The model and its optimizer, before any checkpoint is loaded. All ranks call together.

    Raises InvalidInputError, MissingObjectError, DeviceUnavailableError, and what the store raises.
    """
    if run.mode == "lora" and run.training.ema is not None:
        raise InvalidInputError("training.ema must be left out with mode lora")
    origin = Stored(preset_named(run.model.preset), model_source(run, ["dit"]))
    adapters = adapters_of(run)
    choices = choices_of(run, group, device)
    with _about_weights():
        return compose(
            origin,
            choices,
            adapters=adapters,
            spec=run.training,
            group=group,
            device=device,
            start=lambda model: start(model, run),
        )


def adapters_of(run: RunFile) -> Adapters | None:
    """What mode lora adds; None with mode full."""
    return None if run.mode == "full" else Adapters(params=lora_params(run), seed=run.training.seed)


def choices_of(run: RunFile, group: Group, device: torch.device) -> Choices:
    """How the model is computed. Attention and compiler are checked here, which needs memory of its own: so before the weights.

    All ranks call together. Raises InvalidInputError, DeviceUnavailableError.
    """
    params, compute = preset_named(run.model.preset).dit, compute_type(device)
    checked = Choices(
        compute=compute,
        attention=training_backend(run, device, compute, group),
        left_alone=0,
        base=NARROW.get((run.training.lora or LoraSpec()).base_weights) if run.mode == "lora" else None,
        many_sizes=bool(run.preprocessing.buckets),
    )
    compiler = training_compiler(
        run, params, checked, adapters_of(run), group, device, os.environ, otherwise=usual(device.type)
    )
    copies = weight_copies(run, group, device, os.environ)
    once = synchronised_once(run, group, device, os.environ, copies=copies)
    choices = replace(
        checked,
        compiler=compiler,
        copies=copies,
        synchronise_once=once,
        left_alone=blocks_left_alone(
            run, params.depth, group, device, os.environ, copies=copies, synchronise_once=once
        ),
        swapped=swapped(run),
    )
    if choices.base is not None:
        log.info("the base's weights are kept in %s", choices.base)
    log.info(
        "computed in %s; %d of %d blocks keep their activations, the others their attention's only",
        compute,
        choices.left_alone,
        params.depth,
    )
    return choices


def swapped(run: RunFile) -> int:
    """Blocks that wait in host memory. Raises OutOfMemoryError when the pod has not as much."""
    work = work_of_run(run)
    need = max(1, run.world.gpus_per_pod) * storage(work, keep_last=0, merged=False).swapped
    have = host_memory.available()
    if need and have is not None and need > have:
        raise OutOfMemoryError(
            f"spec.training.lora.blocksToSwap {work.swapped} needs {gibibytes(need)} GiB of the pod's memory, and "
            f"{gibibytes(have)} GiB are left",
            action="swap fewer blocks, or raise spec.workers.resources.memory",
        )
    if need:
        log.info("%d blocks wait in host memory, %s GiB", work.swapped, gibibytes(need))
    return work.swapped


@contextmanager
def _about_weights() -> Iterator[None]:
    """Say of weights that cannot be used that they are the model's."""
    try:
        yield
    except WeightsError as error:
        raise InvalidInputError(f"the model's weights cannot be used: {error}") from error


def start(model: DiT, run: RunFile) -> None:
    """Let the adapters go on from the LoRA file that the run names, if it names one; a checkpoint replaces them later.

    Raises MissingObjectError when there is none, InvalidInputError when it does not fit.
    """
    spec = run.training.lora or LoraSpec()
    if not spec.start_from:
        return
    folder, _, name = spec.start_from.rpartition("/")
    store = open_store(folder, run.s3)
    with tempfile.TemporaryDirectory(prefix="mochi-start-") as local:
        try:
            path = _fetched(store, lora_key(store, name), Path(local))
            found = continue_from(model, lora_params(run), path)
        except ValueError as error:
            raise InvalidInputError(
                f"spec.training.lora.startFrom {spec.start_from} cannot be used: {error}"
            ) from error
    log.info("adapters go on from %s: rank %d on %s", spec.start_from, found.rank, ", ".join(found.targets))


def _fetched(store: Store, name: str, folder: Path) -> Path:
    """The LoRA file `name` in `folder`, with peft's configuration beside it where it has one."""
    path = folder / name
    store.get(name, path)
    if config_wanted(name, tensor_names(path)) and store.exists(CONFIG):
        store.get(CONFIG, folder / CONFIG)
    return path


def lora_params(run: RunFile) -> LoraParams:
    """The adapter that the run file asks for."""
    spec = run.training.lora or LoraSpec()
    return LoraParams(
        rank=spec.rank,
        alpha=float(spec.alpha),
        rslora=spec.rs_lora,
        dropout=float(spec.dropout),
        targets=tuple(spec.targets),
    )
