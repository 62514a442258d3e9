"""What a training leaves for others: the adapter in two formats, merged weights, or the tuned weights in two layouts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi_api import layout, resolved
from mochi_api.runfile import RunFile
from mochi_trainer.exports.card import Artifact, artifact
from mochi_trainer.exports.conversion import write_diffusers_folder, write_merged
from mochi_trainer.exports.run_card import Facts, run_card
from mochi_trainer.lora import LoraParams, adapter_state, export_diffusers, export_native
from mochi_trainer.model import DiT
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.sharding import REPLICATED, whole
from mochi_trainer.storage import Store
from mochi_trainer.weights.writing import Planned, write

log = logging.getLogger(__name__)


def store_adapter(
    store: Store, run: RunFile, model: DiT, params: LoraParams, *, steps: int
) -> list[Artifact]:
    """Write the LoRA as Diffusers reads it (first) and as ComfyUI reads it, alpha / rank folded into both."""
    details = _of_adapter(run, params, steps)
    with tempfile.TemporaryDirectory(prefix="mochi-export-") as folder:
        state = adapter_state(model)
        path, native = (Path(folder) / Path(key).name for key in (layout.LORA, layout.LORA_COMFYUI))
        save_file(export_diffusers(state, params), path, metadata=details)
        tensors, expected = export_native(state, params)
        save_file(tensors, native, metadata=details | expected)
        return [_stored(store, path, layout.LORA), _stored(store, native, layout.LORA_COMFYUI)]


def store_best(store: Store, run: RunFile, model: DiT, params: LoraParams, *, steps: int) -> Artifact:
    """Write the LoRA that `model` has after `steps` steps, of which more were made, beside that of the last step."""
    with tempfile.TemporaryDirectory(prefix="mochi-export-") as folder:
        path = Path(folder) / Path(layout.LORA_BEST).name
        tensors = export_diffusers(adapter_state(model), params)
        save_file(tensors, path, metadata=_of_adapter(run, params, steps))
        return _stored(store, path, layout.LORA_BEST)


def _of_adapter(run: RunFile, params: LoraParams, steps: int) -> dict[str, str]:
    return metadata(run, steps) | {
        "rank": str(params.rank),
        "alpha": f"{params.alpha:g}",
        "targets": ",".join(params.targets),
    }


def store_merged(
    store: Store, run: RunFile, base: Sequence[Path], model: DiT, params: LoraParams, *, steps: int
) -> Artifact:
    """Write the transformer in the files `base` with the adapter of `model` added to its weights; `model` itself stays as it is.

    Raises as `write_merged`.
    """
    with tempfile.TemporaryDirectory(prefix="mochi-merge-") as folder:
        path = Path(folder) / Path(layout.MERGED).name
        log.info("adding the adapter to the weights of %s", base[0].name)
        write_merged(base, adapter_state(model), params, path, metadata(run, steps) | {"mode": "merged"})
        return _stored(store, path, layout.MERGED)


def store_weights(
    store: Store, run: RunFile, model: DiT, group: Group, dtype: torch.dtype, *, steps: int
) -> list[Artifact]:
    """Write all weights in `dtype` under the published names (first) and as a folder for Diffusers.

    Every rank calls this, rank 0 writes and returns. The disk holds the first file and, one at a time, those of the
    folder, which are made from it: the ranks gather the weights once.
    """
    details = metadata(run, steps)
    if run.training.ema is not None:
        details["ema"] = f"{run.training.ema.decay:f}"
    with tempfile.TemporaryDirectory(prefix="mochi-export-") as folder:
        path = Path(folder) / Path(layout.WEIGHTS).name
        if not _written(path, model, group, dtype, details):
            return []
        return [_stored(store, path, layout.WEIGHTS), *_for_diffusers(store, path, model, details)]


def store_unaveraged(
    store: Store, run: RunFile, model: DiT, group: Group, dtype: torch.dtype, *, steps: int
) -> list[Artifact]:
    """Write the weights of the last step, where `store_weights` has written their average. Every rank calls this."""
    with tempfile.TemporaryDirectory(prefix="mochi-export-") as folder:
        path = Path(folder) / Path(layout.UNAVERAGED).name
        if not _written(path, model, group, dtype, metadata(run, steps)):
            return []
        return [_stored(store, path, layout.UNAVERAGED)]


def _written(path: Path, model: DiT, group: Group, dtype: torch.dtype, details: Mapping[str, str]) -> bool:
    """Whether this rank, the first, has written all weights to `path`; the others give their parts."""
    parameters = dict(model.named_parameters())
    if not group.first:
        for _ in gathered(parameters):
            pass
        return False
    plan = {
        name: Planned(tuple(tensor.shape), torch.float32 if name == REPLICATED else dtype)
        for name, tensor in parameters.items()
    }
    write(path, plan, gathered(parameters), details)
    return True


def _for_diffusers(store: Store, path: Path, model: DiT, details: Mapping[str, str]) -> Iterator[Artifact]:
    for file in write_diffusers_folder(path, model.params, path.parent / "transformer", details):
        yield _stored(store, file, layout.join(layout.DIFFUSERS, file.name))
        file.unlink()


def store_card(store: Store, run: RunFile, facts: Facts, files: Sequence[Artifact]) -> None:
    """Write the model card beside the files."""
    store.write_bytes(layout.CARD, run_card(run, facts, files).encode())


@torch.no_grad()
def gathered(parameters: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Each tensor whole, one at a time; every rank has to go through all of them."""
    for tensor in parameters.values():
        yield whole(tensor.detach())


def metadata(run: RunFile, steps: int) -> dict[str, str]:
    """Where the file comes from; plain strings, as safetensors wants them."""
    return {
        "format": "pt",
        "base": run.model.preset,
        "mode": run.mode,
        "steps": str(steps),
        "seed": str(run.training.seed),
        "dataset": run.keys.videos,
        "captions": run.keys.captions,
        "frames": str(run.preprocessing.frames),
        "width": str(run.preprocessing.width),
        "height": str(run.preprocessing.height),
        "fps": str(run.preprocessing.fps),
        **_sizes(run),
        "run": run.run.uid,
    }


def _sizes(run: RunFile) -> dict[str, str]:
    """The sizes of the clips, where there are several: frames, width and height are those of the samples alone then."""
    if not run.preprocessing.buckets:
        return {}
    return {"sizes": ", ".join(size.label for size in resolved.buckets(run.preprocessing))}


def _stored(store: Store, path: Path, key: str) -> Artifact:
    found = artifact(path, name=key.removeprefix("artifacts/"), uri=store.address(key))
    store.put(path, key)
    return found
