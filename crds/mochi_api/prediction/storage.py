"""Bytes that a training writes: a checkpoint, the results, and the disk that its pods need for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mochi_api.prediction.activations import COMPUTE, WIDE
from mochi_api.prediction.memory import all_trained, swapped_block
from mochi_api.prediction.sizes import NETWORKS, TARGET_LAYERS
from mochi_api.prediction.work import Work
from mochi_api.spec import Target

SHARD_BYTES = 10_000_000_000
"""Largest file of the folder for Diffusers; a test compares it with the trainer's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Bytes; those of files with their headers may be some kB more."""

    checkpoint: int
    """One checkpoint, all ranks together: weights that are trained, their average if there is one, and both moments."""
    checkpoints: int
    """All that are kept at a time, the best one among them: one is written before the oldest goes."""
    artifacts: int
    """The result, in each form."""
    disk: int
    """Of the pod that needs most: its part of a checkpoint, where host memory is too small for it, or the files of the export."""
    copy: int
    """Host memory of each rank for its part of a checkpoint while that is written and training goes on."""
    swapped: int
    """Host memory of each rank for the blocks that are swapped; pinned memory comes in powers of two."""


def storage(work: Work, *, keep_last: int, merged: bool, best: bool = False) -> Storage:
    """What a training writes that keeps `keep_last` checkpoints, with `best` one more, and with `merged` the base with its
    adapter too."""
    checkpoint = (3 + work.averaged) * WIDE * all_trained(work)
    whole = _weight_type(work) * work.network.parameters
    merging = whole if merged and not work.full else 0
    artifacts = (2 + work.averaged) * whole if work.full else adapter_files(work) + merging
    export = whole + min(whole, SHARD_BYTES) if work.full else 2 * merging + adapter_files(work)
    part = checkpoint // work.parts if work.full else checkpoint
    return Storage(
        checkpoint=checkpoint,
        checkpoints=(keep_last + 1 + best) * checkpoint,
        artifacts=artifacts,
        disk=max(part, export),
        copy=part,
        swapped=work.swapped * (1 << (swapped_block(work) - 1).bit_length()),
    )


def _weight_type(work: Work) -> int:
    """Whole weights are stored in the published type; those of nano in float32."""
    return WIDE if work.network == NETWORKS["nano"] else COMPUTE


def adapter_files(work: Work) -> int:
    """Bytes of the result of mode lora: one for Diffusers, and one for ComfyUI, in which the adapters of a fused layer are one of all their ranks."""
    return WIDE * (all_trained(work) + _native(work))


def _native(work: Work) -> int:
    found = 0
    for index in range(work.network.depth):
        layers = {layer.name: layer for layer in work.network.layers(index)}
        for name in {TARGET_LAYERS[target][0] for target in work.targets} & layers.keys():
            layer = layers[name]
            found += work.rank * _stacked(work.targets, name) * (layer.inputs + layer.outputs)
    return found


def _stacked(targets: Iterable[Target], layer: str) -> int:
    """Adapters that become one: those of the layer, or of its twin in the other stream when those are more."""
    twins = (
        [name for name, _ in TARGET_LAYERS.values() if name[:-1] == layer[:-1]]
        if "attn" in layer
        else [layer]
    )
    counts = [sum(TARGET_LAYERS[target][0] == twin for target in targets) for twin in twins]
    return max(counts)
