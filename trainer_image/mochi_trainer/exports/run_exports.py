"""What a training stores when it is done: files, the room on the disk that they need, and the card that describes them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from mochi_api import layout
from mochi_api.prediction.storage import adapter_files
from mochi_api.prediction.work import work_of_run
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError, TrainerError
from mochi_trainer.exports.artifacts import (
    store_adapter,
    store_best,
    store_card,
    store_merged,
    store_unaveraged,
    store_weights,
)
from mochi_trainer.exports.card import Artifact
from mochi_trainer.exports.conversion import write_published
from mochi_trainer.exports.run_card import Facts
from mochi_trainer.lora import LoraParams
from mochi_trainer.model import DiT
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import Store, require_space
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.train.session import Session
from mochi_trainer.weights import Source
from mochi_trainer.weights.addresses import folder_of, store_of
from mochi_trainer.weights.diffusers_folder import SHARD_BYTES
from mochi_trainer.weights.finding import part_files
from mochi_trainer.weights.of_run import model_identity, model_source
from mochi_trainer.weights.stored import StoredFile

log = logging.getLogger(__name__)

DIT = "dit.safetensors"


def require_room(run: RunFile) -> None:
    """Raise DiskFullError before the training when its export would not fit onto the disk after it."""
    source = model_source(run, ["dit"]) if _merges(run) else None
    need = export_room(run, None if source is None else store_of(source))
    require_space(Path(tempfile.gettempdir()), need, f"the export of mode {run.mode} after the training")


def export_room(run: RunFile, model: Store | None) -> int:
    """Bytes: the adapter's files, the merged weights and the base they are made from, or the tuned weights and one file for
    Diffusers.

    `model` has the base; None for the weights in the package.
    """
    if run.mode == "full":
        with torch.device("meta"):
            size = sum(p.numel() for p in DiT(preset_named(run.model.preset).dit).parameters())
        size *= _export_type(run).itemsize
        return size + min(size, SHARD_BYTES)
    adapter = adapter_files(work_of_run(run))
    if model is None or not _merges(run):
        return adapter  # the weights in the package take some MB
    files = part_files(model, "dit")
    copies = 1 + (not isinstance(model, LocalStore)) + (files.layout == "diffusers")
    return adapter + copies * sum(file.size for file in files.files)


def _merges(run: RunFile) -> bool:
    return run.training.lora is not None and run.training.lora.export_merged


def _export_type(run: RunFile) -> torch.dtype:
    return torch.float32 if run.model.preset == "nano" else torch.bfloat16


def stored(store: Store, run: RunFile, session: Session, params: LoraParams) -> list[Artifact]:
    """Store what `session` trained, with its card; the main file is first. Empty from a rank other than the first.

    Raises DiskFullError, InvalidInputError when the base does not fit the adapter, and what the stores raise.
    """
    model, group, steps = session.training.model, session.training.group, run.training.steps
    if run.mode == "full":
        with session.training.averaged():
            files = store_weights(store, run, model, group, _export_type(run), steps=steps)
        if session.training.average is not None:
            files += store_unaveraged(store, run, model, group, _export_type(run), steps=steps)
    elif not group.first:  # every rank has all of the adapter
        files = []
    else:
        files = store_adapter(store, run, model, params, steps=steps)
        if _merges(run):
            with _base(run) as base:
                files.append(_merged(store, run, base, model, params))
    if files:
        store_card(store, run, _facts(run, session), files)
        files += _best(store, run, session, params)
    return files


def _best(store: Store, run: RunFile, session: Session, params: LoraParams) -> list[Artifact]:
    """The adapter of the best checkpoint, where training went on after it. The model is that of this checkpoint then."""
    best = session.best
    if run.mode == "full" or best is None or best.step == session.position.step:
        return []
    if not session.checkpoints.load(best.step):
        return []
    log.info("step %d has the lowest loss of the held out clips: its adapter is stored too", best.step)
    return [store_best(store, run, session.training.model, params, steps=best.step)]


def _merged(store: Store, run: RunFile, base: Sequence[Path], model: DiT, params: LoraParams) -> Artifact:
    require_space(
        Path(tempfile.gettempdir()), sum(path.stat().st_size for path in base), Path(layout.MERGED).name
    )
    try:
        return store_merged(store, run, base, model, params, steps=run.training.steps)
    except ValueError as error:
        raise InvalidInputError(f"the adapter cannot be added to {base[0].name}: {error}") from error


@contextmanager
def _base(run: RunFile) -> Iterator[Sequence[Path]]:
    """The base's transformer as it was published, in its own type: the model in memory may have been rounded.

    Files that lie in a folder are used in place, others are downloaded; those of Diffusers are put together.
    """
    preset = preset_named(run.model.preset)
    source = model_source(run, ["dit"]) or preset.packaged
    if source is None:
        raise InvalidInputError(f"model.source is required: preset {preset.name} brings no weights")
    files = part_files(store_of(source), "dit")
    with tempfile.TemporaryDirectory(prefix="mochi-base-") as name:
        paths = [_local(source, file, Path(name)) for file in files.files]
        if files.layout == "published":
            yield paths
            return
        whole = Path(name) / DIT
        with torch.device("meta"):
            names = list(DiT(preset.dit).state_dict())
        write_published(paths, names, preset.dit, whole, {"format": "pt"})
        yield [whole]


def _local(source: Source, file: StoredFile, folder: Path) -> Path:
    if isinstance(source, Path):
        return folder_of(source) / file.key
    path = folder / "files" / Path(file.key).name
    file.store.get(file.key, path)
    return path


def _facts(run: RunFile, session: Session) -> Facts:
    training, position = session.training, session.position
    before, after = session.fixed_losses()
    device = training.device
    return Facts(
        clips=len(training.dataset),
        base_identity=_base_identity(run),
        steps=position.step,
        final_loss=position.loss,
        fixed_before=before,
        fixed_after=after,
        skipped=position.non_finite,
        trained_parameters=session.trained_parameters,
        ranks=training.group.world,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        seconds=session.series.seconds,
    )


def _base_identity(run: RunFile) -> str:
    """Known at once for the package and for S3; a mounted volume would have to be read from end to end."""
    if (run.locations.model or "").startswith("file://"):
        return ""
    try:
        return model_identity(run, ["dit"])
    except TrainerError as error:
        log.warning("the card does not say which base it was: %s", error)
        return ""
