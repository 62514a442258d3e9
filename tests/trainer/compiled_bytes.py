"""What a compiled block reads and writes, counted as torch's inductor schedules its kernels; nothing is computed.

Inductor fuses operators into kernels and knows which buffers each reads and writes: these sizes are added up. The fusions are
those that it makes for a CPU, since for a GPU it wants to see one; a kernel's buffers count once, as if its caches held them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import nn
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._pytree import tree_map

from mochi_trainer.lora import LoraParams, attach
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.model.attention_choice import use
from mochi_trainer.model.attention_kernels import Backend
from mochi_trainer.model.layers import rotary_angles
from mochi_trainer.parallel.compilation import LONGEST, compile_blocks
from mochi_trainer.parallel.recompute import recompute
from mochi_trainer.plan.launches import Launches
from mochi_trainer.vae import latent_shape

Mode = Literal["lora", "full"]
OUTSIDE = {"mm", "addmm", "bmm", "attention", "attention_backward"}
"""Kernels that are products of matrices or attention, by a part of their names."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Of a block, forward and backward."""

    kernels: int
    """Launched: outside products and attention."""

    between: int
    """Bytes that these read and write."""


class _Counted(BaseException):
    """Ends a compilation before code is made."""


class Scheduled:
    """A backend of `torch.compile` that stops where inductor has scheduled its kernels, and computes nothing at all."""

    def __init__(self) -> None:
        self.kernels: list[tuple[str, int]] = []
        """Names, and bytes read and written; "" where inductor makes the kernel itself."""

    def __call__(self, graph: Any, inputs: Sequence[Any]) -> Any:
        return compile_fx(graph, inputs, inner_compile=self._inner)

    def _inner(self, graph: Any, inputs: Sequence[Any], **choices: Any) -> Any:
        try:
            with (
                patch.object(GraphLowering, "compile_to_module", self._scheduled),
                config.patch(fx_graph_cache=False),
            ):
                compile_fx_inner(graph, inputs, **choices)
        except _Counted:
            return make_boxed_func(lambda *given: _without_content(graph, given))
        raise AssertionError("inductor made code without the schedule that is counted")

    @property
    def _scheduled(self) -> Any:
        def count(lowered: Any) -> None:
            lowered.init_wrapper_code()
            lowered._update_scheduler()
            for node in lowered.scheduler.nodes:
                name = getattr(getattr(node, "node", None), "python_kernel_name", None) or ""
                self.kernels.append((name, node.get_read_write_buffers_sizes()))
            raise _Counted

        return count


def _without_content(graph: Any, given: Sequence[Any]) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return tree_map(_empty, graph(*given))


def _empty(leaf: Any) -> Any:
    if not isinstance(leaf, FakeTensor):
        return leaf
    with unset_fake_temporarily():
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype)


def block(mode: Mode, params: DiTParams, compiler: Scheduled | None = None) -> nn.Module:
    """A block as it is trained, in bfloat16 and computed again but for its attention, on the meta device.

    With mode full it is what FSDP2 makes of it while it computes.
    """
    with torch.device("meta"):
        model = DiT(replace(params, depth=2)).to(torch.bfloat16)
    use(model, Backend.CPU)
    if mode == "lora":
        attach(model, LoraParams())
    recompute(model)
    if compiler is not None:
        compile_blocks(model, compiler)
    return model.train().blocks[0]


def step(block: nn.Module, params: DiTParams, frames: int) -> None:
    """Forward and backward through `block`, at 480 x 848 and with the longest caption."""
    latents, rows, columns = latent_shape(frames, 480, 848)
    grid = latents, rows // params.patch, columns // params.patch
    visual = math.prod(grid)
    x = torch.empty(1, visual, params.visual_width, dtype=torch.bfloat16).requires_grad_()
    y = torch.empty(1, LONGEST, params.text_width, dtype=torch.bfloat16).requires_grad_()
    c = torch.empty(1, params.visual_width, dtype=torch.bfloat16)
    frequencies = torch.empty(3, params.heads, params.head_width // 2)
    out = block(x, y, c, rotary_angles(frequencies, *grid), None)
    torch.autograd.backward(out, [torch.empty_like(each) for each in out])


def compiled(mode: Mode, params: DiTParams, frames: int) -> Moved:
    """Of a compiled block, with the longest caption."""
    backend = Scheduled()
    torch._dynamo.reset()
    step(block(mode, params, backend).to_empty(device="cpu"), params, frames)
    own = [moved for name, moved in backend.kernels if moved and not OUTSIDE & set(name.split("."))]
    return Moved(len(own), sum(own))


def eager(mode: Mode, params: DiTParams, frames: int) -> Moved:
    """Of the same block, operator by operator, as `mochi_trainer bench` counts them."""
    plain = block(mode, params)
    with FakeTensorMode(allow_non_fake_inputs=True):
        plain.to_empty(device="cpu")
        with Launches() as launches:
            step(plain, params, frames)
    return Moved(launches.operators, launches.between)
