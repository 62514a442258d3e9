"""Seconds of a LoRA training step beside Diffusers' transformer: `python tests/bench/step_against_diffusers.py`.

Same weights, inputs, adapters (rank 16 on visual query and value) and AdamW; a step is forward, backward, clipping and
the update. Both take turns in one process with one thread, and CPU time is counted, so that neighbours on the machine
count less. Before anything is timed, both must give the same loss.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from diffusers import MochiTransformer3DModel
from peft import LoraConfig
from torch import Tensor, nn

from demo.nano.initial import initialise
from mochi_trainer import flow
from mochi_trainer.lora import LoraParams, attach
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.weights.diffusers_layout import dit_layout

PARAMS = DiTParams(depth=4, visual_width=768, text_width=384, heads=6, text_feature_width=512)
LATENTS = (1, 12, 4, 16, 16)
"""B, C, T, H, W: 19 frames of 128x128 pixels, 256 visual tokens."""

TEXT_TOKENS = 64
RANK = 16
WARM_UP = 1
REPEATS = 5

Forward = Callable[[], Tensor]


def _models() -> tuple[DiT, nn.Module]:
    ours = DiT(PARAMS)
    initialise(ours, 0)
    theirs = MochiTransformer3DModel(
        num_attention_heads=PARAMS.heads,
        attention_head_dim=PARAMS.head_width,
        num_layers=PARAMS.depth,
        pooled_projection_dim=PARAMS.text_width,
        text_embed_dim=PARAMS.text_feature_width,
        time_embed_dim=PARAMS.timestep_width,
    )
    theirs.load_state_dict(dit_layout(ours.state_dict(), PARAMS.depth), strict=True)
    attach(ours, LoraParams(rank=RANK, alpha=RANK, targets=("query", "value")))
    theirs.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["attn1.to_q", "attn1.to_v"]))
    return ours.train(), theirs.train()


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _step(forward: Forward, parameters: list[nn.Parameter], target: Tensor) -> Callable[[], float]:
    """A function that trains one step and returns its seconds."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)

    def run() -> float:
        began = time.process_time()
        flow.loss(forward(), target).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.process_time() - began

    return run


def _velocities(ours: nn.Module, theirs: nn.Module) -> tuple[Forward, Forward]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(LATENTS, generator=draws)
    text = torch.randn(1, TEXT_TOKENS, PARAMS.text_feature_width, generator=draws)
    sigma, mask = torch.tensor([0.4]), torch.ones(1, TEXT_TOKENS, dtype=torch.bool)

    def their_velocity() -> Tensor:
        velocity: Tensor = theirs(
            x, text, timestep=(1 - sigma) * 1000, encoder_attention_mask=mask, return_dict=False
        )[0]
        return velocity

    return lambda: ours(x, sigma, text), their_velocity


def main() -> None:
    """Print medians and the ratio."""
    warnings.filterwarnings("ignore", "In CPU autocast")  # said by Diffusers in every block
    torch.set_num_threads(1)
    ours, theirs = _models()
    target = torch.randn(LATENTS, generator=torch.Generator().manual_seed(2))
    forwards = _velocities(ours, theirs)
    with torch.no_grad():
        losses = [float(flow.loss(forward(), target)) for forward in forwards]
    counts = [sum(p.numel() for p in _trained(model)) for model in (ours, theirs)]
    if abs(losses[0] - losses[1]) > 1e-4 * losses[1] or counts[0] != counts[1]:
        raise SystemExit(f"not the same model: losses {losses}, trained parameters {counts}")
    steps = [
        _step(forward, _trained(model), target)
        for forward, model in zip(forwards, (ours, theirs), strict=True)
    ]
    for _ in range(WARM_UP):
        for step in steps:
            step()
    pairs = [(steps[0](), steps[1]()) for _ in range(REPEATS)]
    tokens = LATENTS[2] * LATENTS[3] * LATENTS[4] // PARAMS.patch**2
    sys.stdout.write(
        f"{PARAMS.depth} blocks, width {PARAMS.visual_width}/{PARAMS.text_width}, {tokens} visual and {TEXT_TOKENS} "
        f"text tokens, batch 1, float32, {counts[0]} trained parameters, 1 thread, CPU time, "
        f"torch {torch.__version__}\nfirst losses {losses[0]:.6f} and {losses[1]:.6f}; "
        f"{REPEATS} turns after {WARM_UP}\n"
    )
    for name, column in zip(("ours", "diffusers"), zip(*pairs, strict=True), strict=True):
        sys.stdout.write(
            f"{name:<10} {statistics.median(column):6.3f} s   ({min(column):.3f} to {max(column):.3f})\n"
        )
    ratios = [a / b for a, b in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    sys.stdout.write(f"ours / diffusers {middle:.2f}, middle half {low:.2f} to {high:.2f}\n")
    sys.stdout.write("again: python tests/bench/step_against_diffusers.py\n")


if __name__ == "__main__":
    main()
