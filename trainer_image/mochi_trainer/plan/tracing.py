"""One training step traced on tensors without memory: its operations, and the most bytes that live at once on a GPU.

The step is the real one: `mochi_trainer.train.composition` composes the model, and `mochi_trainer.train.step` trains it.

    from mochi_trainer.model import DiT, DiTParams
    from mochi_trainer.plan import trace_step
    trace_step(DiTParams(), frames=85, mode="lora", left_alone=4)
    trace_step(DiTParams(), frames=163, mode="full", world=8)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from mochi_api.spec import TrainingSpec
from mochi_trainer.lora import LoraParams
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.model.narrow import Linear
from mochi_trainer.parallel.gradients import measures, scale
from mochi_trainer.parallel.group import Group
from mochi_trainer.parallel.swapping import rooms
from mochi_trainer.plan.launches import Launches
from mochi_trainer.plan.live_bytes import LiveBytes
from mochi_trainer.train.composition import Adapters, Choices, Composed, filled, outlined
from mochi_trainer.train.draws import Example
from mochi_trainer.train.step import accumulated, trained
from mochi_trainer.vae import latent_shape

HEIGHT, WIDTH = 480, 848
LORA = LoraParams()
_ATTENTION = (torch.ops.mochi.attention, torch.ops.mochi.attention_backward)
_DEVICE = torch.device("cpu")
"""Tensors without memory have the same sizes on every device; FSDP2 wants streams of one that is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traced:
    """What one step costs one rank."""

    flops: int
    """Operations of matrix products, convolutions and attention, those computed again included; two a multiplication."""

    attention_flops: int
    """Those of the blocks' attention."""

    peak_bytes: int
    """Most bytes of tensors at once: weights, moments, gradients, activations. CUDA's own memory comes on top."""

    resident_bytes: int
    """Bytes between two steps: weights, moments, and the average if there is one."""

    operators: int
    """Operators that compute something, each a kernel or a few; a block that is not compiled launches them one by one."""

    moved_bytes: int
    """What these read and write, as if each went to memory and nothing stayed in a cache."""

    between_bytes: int
    """Those of them that move neither for a product of matrices nor for attention."""


@dataclass(frozen=True, slots=True)
class _Nowhere:
    """Weights without numbers."""

    params: DiTParams

    def fill(self, rows: Mapping[str, tuple[Tensor, int]]) -> None:
        """Leave them as they are."""


def trace_step(
    params: DiTParams,
    frames: int,
    mode: Literal["lora", "full"],
    *,
    world: int = 1,
    left_alone: int = 0,
    height: int = HEIGHT,
    width: int = WIDTH,
    text_tokens: int | None = None,
    lora: LoraParams = LORA,
    clips: int = 1,
    base: torch.dtype | None = None,
    swapped: int = 0,
    averaged: bool = False,
    synchronise_once: bool = False,
    copies: int = 1,
    context: int = 1,
) -> Traced:
    """Trace a step of `clips` clips on rank 0 of `world`, in bfloat16, after a first one that made the moments.

    `frames` and `height` and `width` are those of the video; `text_tokens` are the longest caption's unless given; `base`
    `swapped` and `copies` are as in `Choices`, and what waits in host memory is not counted; `context` is as in `Group`;
    `averaged` keeps a moving average of the weights, with mode full only. With mode
    full no other process group may exist. Raises InvalidInputError when the model has not so many blocks as `left_alone`.
    """
    spec = TrainingSpec.model_validate({"steps": 2, **({"ema": {}} if averaged else {})})
    shape = (1, params.latent_channels, *latent_shape(frames, height, width))
    tokens = params.text_tokens if text_tokens is None else text_tokens
    choices = Choices(compute=torch.bfloat16, attention=Backend.CPU, left_alone=left_alone, copies=copies)
    adapters = Adapters(params=lora) if mode == "lora" else None
    with _group(world, context, alone=mode == "lora" and world == 1) as group:
        model = outlined(params, choices, adapters=adapters, group=group, device=_DEVICE)
        with FakeTensorMode(allow_non_fake_inputs=True):
            made = filled(
                model,
                _Nowhere(params),
                adapters=adapters,
                spec=spec,
                device=_DEVICE,
                base=base,
                swapped=swapped,
            )
            model.train()

            def step() -> None:
                examples = (_example(shape, tokens, params) for _ in range(clips))
                _step(made, examples, clips, group, synchronise_once=synchronise_once)

            return _traced(made, step)


def _step(
    made: Composed, examples: Iterable[Example], clips: int, group: Group, *, synchronise_once: bool
) -> None:
    """What training does in a step, but for looking at the numbers."""
    parameters = trained(made.optimizer)
    losses = accumulated(made.model, examples, share=clips, group=group, synchronise_once=synchronise_once)
    measures(losses, parameters, group)  # and here the host waits, the only time
    scale(parameters, 0.5)
    made.optimizer.step()
    if made.average is not None:
        made.average.update()
    made.optimizer.zero_grad(set_to_none=True)


def _traced(made: Composed, step: Callable[[], None]) -> Traced:
    """Two steps: the first counted, which makes the moments, the second weighed. Apart, since the counter keeps activations alive."""
    with FlopCounterMode(display=False) as counter, Launches() as launches:
        step()
    with LiveBytes() as live:
        kept = () if made.average is None else made.average.tensors().values()
        live.add(*_on_device(made.model), *_moments(made.optimizer), *kept)
        resident = live.now[_DEVICE.type]
        step()
    kernels = counter.get_flop_counts()["Global"]
    return Traced(
        flops=counter.get_total_flops(),
        attention_flops=sum(kernels[kernel] for kernel in _ATTENTION),
        peak_bytes=live.peak[_DEVICE.type],
        resident_bytes=resident,
        operators=launches.operators,
        moved_bytes=launches.moved,
        between_bytes=launches.between,
    )


def _example(shape: tuple[int, ...], tokens: int, params: DiTParams) -> Example:
    text = torch.empty(1, tokens, params.text_feature_width)
    return Example(torch.empty(shape), torch.empty(1), text, torch.empty(shape))


def _on_device(model: DiT) -> Iterator[Tensor]:
    """All but what waits in host memory, and the rooms for it."""
    waiting = {id(layer.weight) for layer in model.modules() if isinstance(layer, Linear) and layer.fetch}
    yield from (each for each in model.parameters() if id(each) not in waiting)
    yield from model.buffers()
    yield from rooms(model)


def _moments(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def _group(world: int, context: int, *, alone: bool) -> Iterator[Group]:
    """Rank 0 of `world` ranks that are not there."""
    if alone:
        yield Group()
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield Group(0, world, context=context)
    finally:
        dist.destroy_process_group()
