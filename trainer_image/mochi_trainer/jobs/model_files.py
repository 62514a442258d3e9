"""The weights a stage needs, as local files, what a cache key says about them, and the device they go to."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import torch

from mochi_api.runfile import RunFile
from mochi_trainer import presets
from mochi_trainer.errors import DiskFullError, MissingObjectError
from mochi_trainer.parallel.devices import device_for
from mochi_trainer.presets import Part
from mochi_trainer.storage import ObjectInfo, Store, open_store

log = logging.getLogger(__name__)

GIB = 1 << 30


def model_folder(run: RunFile, parts: Sequence[Part], into: Path) -> Path | None:
    """A local folder with `parts`, for the `source` argument of `presets.load_*`; None for weights in the package.

    A mounted volume is used in place, S3 objects are downloaded below `into`. Raises MissingObjectError when a part is
    not there, DiskFullError before the download when it cannot fit.
    """
    address = run.locations.model
    if address is None:
        return None
    if address.startswith("file://"):
        return Path(unquote(address.removeprefix("file://")))
    store = open_store(address, run.s3)
    files = [info for part in parts for info in _objects(store, part)]
    need, free = sum(info.size for info in files), shutil.disk_usage(into).free
    if need > free:
        raise DiskFullError(
            f"the weights at {address} need {need / GIB:.1f} GiB, {into} has {free / GIB:.1f} GiB free"
        )
    for info in files:
        log.info("downloading %s, %.1f GiB", store.address(info.key), info.size / GIB)
        store.get(info.key, into / info.key)
    return into


def model_identity(run: RunFile, parts: Sequence[Part]) -> str:
    """What a cache key says about `parts`: preset and a hash of their content, for S3 of sizes and ETags.

    Raises MissingObjectError when a part is not there.
    """
    address, preset = run.locations.model, run.model.preset
    if address is None or address.startswith("file://"):
        return presets.identity(preset, model_folder(run, parts, Path()), parts)
    store = open_store(address, run.s3)
    lines = [f"{info.key} {info.size} {info.etag}\n" for part in parts for info in _objects(store, part)]
    return f"{preset}-{hashlib.sha256(''.join(lines).encode()).hexdigest()[:32]}"


def stage_device(run: RunFile, gpus: int | None) -> torch.device:
    """Where a stage of preprocessing computes: on the CPU with `gpus` 0, and by default when the preset is nano.

    Raises DeviceUnavailableError when it should be a GPU and torch sees none.
    """
    return device_for((0 if run.model.preset == "nano" else 1) if gpus is None else gpus)


def _objects(store: Store, part: Part) -> list[ObjectInfo]:
    if part == "t5":
        found = list(store.list("t5/"))
        missing = "t5/config.json"
        if any(info.key == missing for info in found):
            return found
    else:
        missing = f"{part}.safetensors"
        info = store.head(missing)
        if info is not None:
            return [info]
    raise MissingObjectError(f"{store.address(missing)} does not exist; it belongs to the model's weights")
