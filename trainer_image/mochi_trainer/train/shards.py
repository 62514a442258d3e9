"""A training state as one safetensors file for each rank: every rank's rows of weights and optimizer moments.

Tensors are called `weight/<name>`, `exp_avg/<name>`, `exp_avg_sq/<name>` and, with a moving average, `ema/<name>`. Rows are cut as FSDP2 cuts them, so that any
number of ranks finds its rows again in the files of any other number. A tensor that is not sharded is in the first
file only. Where the ranks hold several copies, there is one file for each part of one copy. Nothing here is pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mochi_trainer.parallel.sharding import held_rows, own_part, part_of, rows_of
from mochi_trainer.train.average import Average
from mochi_trainer.train.misfits import MisfitError, OtherTrainingError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter, shaped like it."""

WEIGHT = "weight"
AVERAGE = "ema"

State = dict[str, dict[str, Tensor]]
"""By name of the parameter, then by kind of tensor."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How many files a stored state has, and the shapes of its whole tensors."""

    files: int
    shapes: Mapping[str, list[int]]
    """By name of the parameter."""
    sharded: bool
    average_updates: int | None = None
    """After how many updates the moving average is that it has; None when it has none."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A rank's file among those of a state."""

    index: int
    files: int
    written: bool
    """Whether it is this rank that writes it, of all that have the same rows."""

    @property
    def name(self) -> str:
        """The file's."""
        return shard_name(self.index, self.files)


def own_file(parameters: Mapping[str, nn.Parameter], *, rank: int, world: int) -> OwnFile:
    """The file of `rank`. Those of several copies take turns, so that each pod writes its share; of part 0 the first does."""
    part = next((part_of(p) for p in parameters.values() if isinstance(p, DTensor)), None)
    if part is None:
        return OwnFile(rank, world, written=True)
    return OwnFile(part.index, part.of, written=part.copy == part.index % part.copies)


def shard_name(index: int, files: int) -> str:
    """The file of one rank."""
    return f"shard-{index:05d}-of-{files:05d}.safetensors"


def own_state(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    average: Average | None = None,
    *,
    first: bool,
) -> dict[str, Tensor]:
    """This rank's rows by their names in its file, where training has them; `first` also has what is not sharded."""
    state: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        if not (first or isinstance(parameter, DTensor)):
            continue
        moments = optimizer.state.get(parameter, {})
        parts = {WEIGHT: parameter, **{kind: moments[kind] for kind in MOMENTS if kind in moments}}
        if average is not None:
            parts[AVERAGE] = average.tensors()[name]
        for kind, tensor in parts.items():
            state[f"{kind}/{name}"] = own_part(tensor.detach())
    return state


def most_bytes(parameters: Mapping[str, nn.Parameter], *, first: bool, averaged: bool = False) -> int:
    """Those of this rank's rows once the optimizer has changed them."""
    own = (own_part(p.detach()) for p in parameters.values() if first or isinstance(p, DTensor))
    return sum((1 + len(MOMENTS) + averaged) * part.numel() * part.element_size() for part in own)


def updates_of(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """How often the optimizer has changed the parameters."""
    counts = [int(state["step"]) for p in parameters.values() if (state := optimizer.state.get(p))]
    return max(counts, default=0)


def read_shards(
    fetch: Callable[[str], Path],
    layout: Layout,
    parameters: Mapping[str, nn.Parameter],
    *,
    updates: int,
    averaged: bool = False,
) -> State:
    """This rank's rows of a stored state, on the CPU, whatever the number of ranks was.

    `averaged` asks for the moving average too, which `layout` must have. `fetch` brings a file by its name; only the files with rows of this rank are asked for. Raises MisfitError.
    """
    compare(layout, shapes_of(parameters))
    kinds = (WEIGHT, *(MOMENTS if updates else ()), *((AVERAGE,) if averaged else ()))
    return {
        name: {kind: _rows(fetch, layout, f"{kind}/{name}", parameter) for kind in kinds}
        for name, parameter in parameters.items()
    }


@torch.no_grad()
def put_state(
    state: State, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, *, updates: int
) -> None:
    """Make what `read_shards` returned the state of parameters and optimizer; the average is not theirs."""
    for name, parameter in parameters.items():
        own_part(parameter).copy_(state[name][WEIGHT])
        if not updates:
            continue
        moments = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
        for kind, moment in moments.items():
            own_part(moment).copy_(state[name][kind])
        step = torch.tensor(
            float(updates), device=own_part(parameter).device
        )  # the fused kernel reads it there
        optimizer.state[parameter] = {"step": step, **moments}


def compare(layout: Layout, shapes: Mapping[str, list[int]]) -> None:
    """Raise OtherTrainingError when the stored state is not of tensors with these names and shapes."""
    if strange := sorted(layout.shapes.keys() ^ shapes.keys()):
        where = "not in the checkpoint" if strange[0] in shapes else "not part of the model"
        raise OtherTrainingError(f"{strange[0]} is {where}, {len(strange)} such tensors")
    for name, shape in shapes.items():
        if shape != list(layout.shapes[name]):
            raise OtherTrainingError(f"{name} must have shape {shape}, got {list(layout.shapes[name])}")


def _rows(fetch: Callable[[str], Path], layout: Layout, key: str, parameter: nn.Parameter) -> Tensor:
    if not (layout.sharded and isinstance(parameter, DTensor)):
        return _slice(fetch(shard_name(0, layout.files)), key, None)
    length = parameter.shape[0]
    wanted = held_rows(parameter)
    pieces = [
        _slice(fetch(shard_name(index, layout.files)), key, part)
        for index, part in _overlaps(wanted, length, layout.files)
    ]
    return torch.cat(pieces) if pieces else torch.empty(0, *parameter.shape[1:], dtype=parameter.dtype)


def _overlaps(wanted: range, length: int, files: int) -> Iterator[tuple[int, range]]:
    """Files that hold some of the `wanted` rows, with these rows counted from the file's first one."""
    for index in range(files):
        held = rows_of(length, index, files)
        start, stop = max(wanted.start, held.start), min(wanted.stop, held.stop)
        if start < stop:
            yield index, range(start - held.start, stop - held.start)


def _slice(path: Path, key: str, rows: range | None) -> Tensor:
    with safe_open(path, framework="pt") as file:
        if key not in file.keys():  # noqa: SIM118  # safe_open is no mapping
            raise MisfitError(f"{path.name} has no tensor {key}")
        tensor: Tensor = file.get_tensor(key) if rows is None else file.get_slice(key)[rows.start : rows.stop]
    return tensor


def shapes_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, list[int]]:
    """The shapes of the whole tensors by name."""
    return {name: list(parameter.shape) for name, parameter in parameters.items()}
