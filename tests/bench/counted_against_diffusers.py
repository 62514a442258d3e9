"""A LoRA step of the published model beside Diffusers' loop, counted on tensors without memory.

    python tests/bench/counted_against_diffusers.py [FRAMES ...]      37, 85 and 163 by default

Operations, operators that launch kernels, and the bytes that these read and write, outside products and attention too. Both:
bfloat16 weights, rank 16 on visual query and value in float32, 480 x 848, 256 text tokens, batch 1, AdamW, clipping. Diffusers as
its trainers have it: gradient checkpointing of whole blocks, peft as it is, AdamW and clipping over lists of tensors. Traced
with 3 and 4 blocks and carried on to 48.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from diffusers import MochiTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mochi_trainer.model import DiTParams
from mochi_trainer.plan import traced_by_few
from mochi_trainer.plan.launches import Launches
from mochi_trainer.vae import latent_shape

BLOCKS, FEW = 48, 3
PARAMS = DiTParams()


class Counts(NamedTuple):
    """Of one step."""

    flops: float
    operators: float
    moved: float
    between: float


class AllValid(TorchDispatchMode):
    """Diffusers asks each block which text tokens are no padding, which cannot be known without numbers: here all are valid."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            return torch.arange(args[0].numel(), device=args[0].device)[:, None]
        return func(*args, **(kwargs or {}))


def theirs(blocks: int, frames: int) -> Counts:
    """A step of Diffusers' transformer with so many blocks, after a first one that made the moments."""
    with torch.device("meta"):
        model = MochiTransformer3DModel(num_layers=blocks).to(torch.bfloat16)
        model.requires_grad_(False)
        model.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["attn1.to_q", "attn1.to_v"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    model.enable_gradient_checkpointing()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=True)  # what AdamW chooses on a GPU
        step = _step(model, trained, optimizer, (1, 12, *latent_shape(frames, 480, 848)))
        with AllValid():
            step()
            with FlopCounterMode(display=False) as counter, Launches() as launches:
                step()
    return Counts(counter.get_total_flops(), launches.operators, launches.moved, launches.between)


def _step(model: nn.Module, trained: list[nn.Parameter], optimizer: Any, shape: tuple[int, ...]) -> Any:
    text, mask = torch.empty(1, 256, 4096, dtype=torch.bfloat16), torch.ones(1, 256, dtype=torch.bool)
    x, target, timestep = torch.empty(shape, dtype=torch.bfloat16), torch.empty(shape), torch.empty(1)

    def run() -> None:
        found: Tensor = model(x, text, timestep=timestep, encoder_attention_mask=mask, return_dict=False)[0]
        nn.functional.mse_loss(found.float(), target).backward()
        nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def lines(lengths: list[int]) -> Iterator[str]:
    yield "| frames | | PFLOP | operators | TB moved | of it outside products and attention |"
    yield "|---|---|---|---|---|---|"
    for frames in lengths:
        found = traced_by_few(PARAMS, frames, "lora")
        here = Counts(found.flops, found.operators, found.moved_bytes, found.between_bytes)
        base, again = theirs(FEW, frames), theirs(FEW + 1, frames)
        there = Counts(*(a + (BLOCKS - FEW) * (b - a) for a, b in zip(base, again, strict=True)))
        for name, each in (("here", here), ("Diffusers", there)):
            yield (
                f"| {frames} | {name} | {each.flops / 1e15:.3f} | {each.operators:.0f} | {each.moved / 1e12:.2f} "
                f"| {each.between / 1e12:.2f} |"
            )
        ratios = [b / a for a, b in zip(here, there, strict=True)]
        yield f"| {frames} | Diffusers / here | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "In CPU autocast")  # said by Diffusers in every block
    for line in lines([int(text) for text in sys.argv[1:]] or [37, 85, 163]):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
