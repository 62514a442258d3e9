"""What a training leaves for others: the adapter or the tuned weights, and a model card beside them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.lora import LoraParams, adapter_state, export_diffusers, export_native
from mochi_trainer.model import DiT
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.sharding import REPLICATED, whole
from mochi_trainer.storage import Store
from mochi_trainer.train.weights_file import Planned, write

CARD = "artifacts/README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A stored file."""

    uri: str
    sha256: str
    size_bytes: int


def store_adapter(store: Store, run: RunFile, model: DiT, params: LoraParams, *, steps: int) -> Artifact:
    """Write the LoRA as Diffusers reads it and as ComfyUI reads it, alpha / rank folded into both, and their card."""
    details = metadata(run, steps) | {
        "rank": str(params.rank),
        "alpha": f"{params.alpha:g}",
        "targets": ",".join(params.targets),
    }
    with tempfile.TemporaryDirectory(prefix="mochi-export-") as folder:
        state = adapter_state(model)
        path, native = (Path(folder) / Path(key).name for key in (layout.LORA, layout.LORA_COMFYUI))
        save_file(export_diffusers(state, params), path, metadata=details)
        tensors, expected = export_native(state, params)
        save_file(tensors, native, metadata=details | expected)
        store.put(native, layout.LORA_COMFYUI)
        artifact = _stored(store, path, layout.LORA)
    store.write_bytes(CARD, card(run, details, artifact).encode())
    return artifact


def store_weights(
    store: Store, run: RunFile, model: DiT, group: Group, dtype: torch.dtype, *, steps: int
) -> Artifact | None:
    """Write all weights under the published names in `dtype`; every rank calls this, rank 0 writes and returns."""
    parameters = dict(model.named_parameters())
    if not group.first:
        for _ in gathered(parameters):
            pass
        return None
    plan = {
        name: Planned(tuple(tensor.shape), torch.float32 if name == REPLICATED else dtype)
        for name, tensor in parameters.items()
    }
    details = metadata(run, steps)
    with tempfile.TemporaryDirectory(prefix="mochi-export-") as folder:
        path = Path(folder) / "dit.safetensors"
        write(path, plan, gathered(parameters), details)
        artifact = _stored(store, path, layout.WEIGHTS)
    store.write_bytes(CARD, card(run, details, artifact).encode())
    return artifact


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
        "run": run.run.uid,
    }


def card(run: RunFile, details: Mapping[str, str], artifact: Artifact) -> str:
    """The model card, Markdown."""
    kind = "LoRA for" if run.mode == "lora" else "Full fine-tune of"
    name = artifact.uri.rsplit("/", 1)[-1]
    rows = "\n".join(f"| {key} | {value} |" for key, value in details.items() if key != "format")
    use = (
        f'Load it with Diffusers: `pipe.load_lora_weights("{name}")`. ComfyUI and the published inference code take '
        f"`{Path(layout.LORA_COMFYUI).name}`, the same adapter under fused names. In both, alpha / rank is folded into "
        "the B matrices."
        if run.mode == "lora"
        else f"`{name}` has the published names and takes the place of the base model's `dit.safetensors`."
    )
    return (
        f"# {kind} {run.model.preset}: {run.run.name}\n\n{use}\n\n"
        f"| | |\n|---|---|\n{rows}\n| file | {name}, {artifact.size_bytes} bytes |\n| sha256 | `{artifact.sha256}` |\n\n"
        "Trained by mochi-operator. The base model's licence (Apache-2.0) and that of the clips apply.\n"
    )


def _stored(store: Store, path: Path, key: str) -> Artifact:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    store.put(path, key)
    return Artifact(uri=store.address(key), sha256=digest, size_bytes=path.stat().st_size)
