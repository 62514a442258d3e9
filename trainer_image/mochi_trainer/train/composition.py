"""The model as it is trained: what is applied to it, in one order, on a GPU and in the tests alike.

Shapes only, attention, adapters, context parallelism, recomputation, compilation, sharding; then memory on the device, numbers, and the optimizer.
With shapes first a rank makes room for its own rows only, and the same steps are traced without memory
(`mochi_trainer.plan.tracing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from mochi_api.spec import TrainingSpec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.lora import LoraParams, attach, base_state, draw, trainable_parameters
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_choice import use
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.model.narrow import narrow
from mochi_trainer.parallel import compilation
from mochi_trainer.parallel.compilation import compile_blocks
from mochi_trainer.parallel.context import share_tokens
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.recompute import VARIABLE as LEFT_ALONE
from mochi_trainer.parallel.recompute import recompute
from mochi_trainer.parallel.sharding import own_rows, shard
from mochi_trainer.parallel.swapping import make_room, swap, swapped_blocks
from mochi_trainer.presets.catalogue import Preset
from mochi_trainer.train.average import Average
from mochi_trainer.train.optimizer import adamw
from mochi_trainer.weights import Source, fill_dit, kept_type


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """How the model is computed; none of it changes what is computed, but for rounding, of which `base` is most."""

    compute: torch.dtype
    """Type of activations, and of the weights of mode lora; adapters, and the weights of mode full, are float32."""

    attention: Backend
    """The kernel of the blocks."""

    left_alone: int
    """So many blocks, the last ones, keep all that they computed; the others compute it again in the backward pass, but
    for their attention."""

    base: torch.dtype | None = None
    """Type of the blocks' frozen matrices in mode lora, int8 or float8; None keeps them in `compute`."""

    swapped: int = 0
    """So many blocks, in mode lora, have their frozen matrices in host memory until they compute; they are computed again."""

    compiler: str | None = None
    """torch's backend that compiles the blocks; None computes them operator by operator."""

    many_sizes: bool = False
    """Whether clips have several sizes, so that what is compiled serves them all."""

    copies: int = 1
    """Of the weights of mode full, over all ranks: those that follow one another share one in equal parts."""

    synchronise_once: bool = False
    """Whether the gradients of mode full are summed over the ranks with the last of several clips only."""


class Origin(Protocol):
    """Where the transformer's numbers come from."""

    @property
    def params(self) -> DiTParams:
        """Its sizes."""
        ...

    def fill(self, rows: Mapping[str, tuple[Tensor, int]]) -> None:
        """Give tensors, by published name, their numbers; each comes with the number of its first row."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """The weights of a preset, from where the user keeps them."""

    preset: Preset
    source: Source | None

    @property
    def params(self) -> DiTParams:
        """The preset's sizes."""
        return self.preset.dit

    def fill(self, rows: Mapping[str, tuple[Tensor, int]]) -> None:
        """Read what `rows` asks for, and nothing else. Raises as `mochi_trainer.weights.load_dit`."""
        fill_dit(self.preset, self.source, rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapters:
    """What mode lora adds."""

    params: LoraParams
    seed: int = 0
    """Of the numbers with which they start."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A model ready to be trained, and what changes it."""

    model: DiT
    optimizer: torch.optim.Optimizer
    average: Average | None
    """Of the weights, where the spec asks for one."""
    synchronise_once: bool = False
    """As in `Choices`."""


def compose(
    origin: Origin,
    choices: Choices,
    *,
    adapters: Adapters | None,
    spec: TrainingSpec,
    group: Group,
    device: torch.device,
    start: Callable[[DiT], None] = lambda _: None,
) -> Composed:
    """The model with its numbers on `device`; `adapters` None trains all weights, in equal parts on the ranks of `group`.

    `start` may give the new adapters other numbers than the drawn ones. All ranks call together. Raises what `origin.fill`
    and `start` raise, and InvalidInputError when `choices` do not fit the model.
    """
    model = outlined(origin.params, choices, adapters=adapters, group=group, device=device)
    composed = filled(
        model,
        origin,
        adapters=adapters,
        spec=spec,
        device=device,
        base=choices.base,
        swapped=choices.swapped,
        start=start,
    )
    return replace(composed, synchronise_once=choices.synchronise_once)


def filled(
    model: DiT,
    origin: Origin,
    *,
    adapters: Adapters | None,
    spec: TrainingSpec,
    device: torch.device,
    base: torch.dtype | None = None,
    swapped: int = 0,
    start: Callable[[DiT], None] = lambda _: None,
) -> Composed:
    """What `outlined` returned, with memory and numbers, its optimizer and its average; as `compose`."""
    waiting = swapped_blocks(len(model.blocks), swapped)
    make_room(model, device, waiting)
    _fill(model, origin)
    if adapters is not None:
        if base is not None:
            narrow(model.blocks, base)
        swap(model, device, waiting)
        draw(model, adapters.seed)
        start(model)
    parameters = trainable_parameters(model)
    average = None if spec.ema is None else Average(parameters, float(spec.ema.decay))
    return Composed(model, adamw(parameters, spec), average)


def _fill(model: DiT, origin: Origin) -> None:
    """Of its own: what is narrowed next must not be referred to any more."""
    base = base_state(model)
    origin.fill({name: rows for name, rows in own_rows(model).items() if name in base})


def outlined(
    params: DiTParams, choices: Choices, *, adapters: Adapters | None, group: Group, device: torch.device
) -> DiT:
    """The model on the meta device, without memory, with all that is applied to it before it has numbers."""
    model = unsharded(params, choices, adapters=adapters, group=group)
    if adapters is None:
        shard(model, group, device=device, compute=choices.compute, copies=choices.copies)
    return model


def unsharded(params: DiTParams, choices: Choices, *, adapters: Adapters | None, group: Group) -> DiT:
    """As `outlined`, but for sharding."""
    if choices.swapped and choices.compiler is not None:
        raise InvalidInputError(
            f"{compilation.VARIABLE} must be left out with spec.training.lora.blocksToSwap {choices.swapped}, got {choices.compiler}"
        )
    if choices.swapped and choices.left_alone > 1:
        raise InvalidInputError(
            f"{LEFT_ALONE} must be at most 1 with spec.training.lora.blocksToSwap {choices.swapped}, "
            f"got {choices.left_alone}: blocks that wait are computed again"
        )
    with torch.device("meta"):
        model = DiT(params).eval()
    use(model, choices.attention)
    if adapters is not None:
        _keep_in(model, choices.compute)
        attach(model, adapters.params)
    if group.context > 1:
        share_tokens(model, group)
    recompute(model, left_alone=choices.left_alone)
    if choices.compiler is not None:
        compile_blocks(model, choices.compiler, many_sizes=choices.many_sizes)
    return model


def _keep_in(model: nn.Module, dtype: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(kept_type(name, dtype))
