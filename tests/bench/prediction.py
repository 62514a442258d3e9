"""The prediction of `mochi_api.prediction` beside the real step, traced without memory: `python tests/bench/prediction.py`.

Thirty-six trainings of the published model, 48 blocks, in bfloat16; mode full is sharded by FSDP2 over ranks that are not there,
in one copy of the weights or several, and some let several ranks share each clip.
For each: the most bytes of tensors that live at once, and the operations executed. Numbers on the command line choose some of
them. The result is a table in Markdown; the exit code says whether every line is within the bounds. Each line is traced in a
process of its own: torch remembers the groups of meshes that are alike, also when those groups are no more.
"""

from __future__ import annotations

import subprocess
import sys
import time
import warnings

import torch

from mochi_api.prediction import flops
from mochi_api.prediction.memory import memory
from mochi_api.prediction.policies import Policy
from mochi_api.prediction.sizes import NETWORKS, TARGET_LAYERS
from mochi_api.prediction.work import Work
from mochi_trainer.lora import LoraParams
from mochi_trainer.model import DiTParams
from mochi_trainer.plan import trace_step

MOST_ABOVE, MOST_BELOW, FLOPS = 0.05, 0.02, 0.01
"""Bounds: the prediction over the traced peak at most so much above or below it, and the operations either way."""

LINE = "line"
"""Before a number: this one alone, without the table around it."""
ATTENTION = ("query", "key", "value", "output")
SPECS: tuple[dict, ...] = (
    {"mode": "lora", "frames": 37},
    {"mode": "lora", "frames": 85},
    {"mode": "lora", "frames": 163},
    {"mode": "lora", "frames": 37, "alone": 30},
    {"mode": "lora", "frames": 85, "alone": 12},
    {"mode": "lora", "frames": 61, "rank": 64, "targets": ATTENTION, "alone": 5},
    {"mode": "lora", "frames": 79, "rank": 128, "targets": (*ATTENTION, "mlp_in", "mlp_out")},
    {"mode": "lora", "frames": 37, "rank": 256, "targets": tuple(TARGET_LAYERS), "alone": 2},
    {"mode": "lora", "frames": 37, "targets": ("mlp_in",), "alone": 48},
    {"mode": "lora", "frames": 49, "size": (480, 480), "targets": ("key", "text_query", "text_mlp_out")},
    {"mode": "lora", "frames": 7, "size": (320, 192), "rank": 4, "targets": ("output",)},
    {"mode": "lora", "frames": 85, "clips": 2, "rank": 32, "text": 40},
    {"mode": "lora", "frames": 25, "size": (640, 352), "dropout": 0.1, "targets": ATTENTION, "alone": 10},
    {"mode": "full", "frames": 37, "world": 8},
    {"mode": "full", "frames": 85, "world": 8},
    {"mode": "full", "frames": 163, "world": 8},
    {"mode": "full", "frames": 85, "world": 8, "alone": 7},
    {"mode": "full", "frames": 61, "world": 4, "clips": 2},
    {"mode": "full", "frames": 7, "size": (320, 192), "world": 16},
    {"mode": "full", "frames": 109, "size": (480, 848), "world": 32, "text": 77, "alone": 2},
    {"mode": "lora", "frames": 37, "narrow": True},
    {"mode": "lora", "frames": 85, "alone": 12, "narrow": True},
    {"mode": "lora", "frames": 37, "alone": 1, "swapped": 30},
    {"mode": "lora", "frames": 85, "alone": 1, "narrow": True, "swapped": 46},
    {"mode": "full", "frames": 37, "world": 16, "copies": 2},
    {"mode": "full", "frames": 85, "world": 16, "copies": 2, "alone": 5},
    {"mode": "full", "frames": 61, "world": 32, "copies": 4, "clips": 2},
    {"mode": "full", "frames": 163, "world": 8, "context": 4},
    {"mode": "full", "frames": 85, "world": 8, "context": 8, "clips": 2, "alone": 6},
    {"mode": "full", "frames": 85, "world": 16, "copies": 2, "context": 8},
    {"mode": "lora", "frames": 163, "world": 4, "context": 4},
    {"mode": "lora", "frames": 85, "world": 8, "context": 2, "rank": 64, "targets": ATTENTION, "alone": 8},
    {"mode": "lora", "frames": 85, "world": 2, "context": 2, "narrow": True, "swapped": 30, "alone": 1},
    {"mode": "lora", "frames": 7, "size": (320, 192), "narrow": True},
    {
        "mode": "lora",
        "frames": 7,
        "size": (320, 192),
        "world": 2,
        "rank": 256,
        "targets": tuple(TARGET_LAYERS),
    },
    {
        "mode": "lora",
        "frames": 7,
        "size": (480, 480),
        "rank": 256,
        "targets": tuple(TARGET_LAYERS),
        "alone": 48,
    },
)


def main(chosen: list[int]) -> int:
    """Print the table; 1 when a line is out of bounds."""
    sys.stdout.write(
        "| | mode | frames, size | GPUs | clips | adapters | left alone | traced GB | predicted GB | off | traced PFLOP | off |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    )
    sys.stdout.flush()
    good = True
    for number in chosen:
        line = [sys.executable, __file__, LINE, str(number)]
        good = subprocess.run(line, check=False).returncode == 0 and good
    sys.stdout.write("all within the bounds\n" if good else "out of bounds\n")
    return 0 if good else 1


def _line(
    number: int,
    *,
    mode: str,
    frames: int,
    size: tuple[int, int] = (848, 480),
    rank: int = 16,
    targets: tuple = ("query", "value"),
    dropout: float = 0.0,
    alone: int = 0,
    world: int = 1,
    clips: int = 1,
    text: int = 256,
    narrow: bool = False,
    swapped: int = 0,
    copies: int = 1,
    context: int = 1,
) -> bool:
    warnings.simplefilter("ignore")
    began = time.monotonic()
    width, height = size
    lora = LoraParams(rank=rank, alpha=16, dropout=dropout, targets=targets)
    traced = trace_step(
        DiTParams(), frames, mode, world=world, left_alone=alone, height=height, width=width,
        text_tokens=text, lora=lora, clips=clips, base=torch.float8_e4m3fn if narrow else None,
        swapped=swapped, copies=copies, context=context,
    )  # fmt: skip
    work = Work(
        mode=mode, network=NETWORKS["mochi-1"], frames=frames, width=width, height=height, rank=rank,
        targets=targets, dropout=dropout > 0, world=world, share=clips, text=text, narrow=narrow,
        swapped=swapped, copies=copies, context=context,
    )  # fmt: skip
    policy = Policy(left_alone=alone)
    peak, operations = memory(work, policy).peak, flops.step(work, policy).total
    off, off_flops = peak / traced.peak_bytes - 1, operations / traced.flops - 1
    kept = (", base Float8" if narrow else "") + (f", {swapped} swapped" if swapped else "")
    adapters = f"r{rank} {'+'.join(targets) if len(targets) < 12 else 'all'}{kept}" if mode == "lora" else ""
    shared = (f", {copies} copies" if copies > 1 else "") + (
        f", {context} share a clip" if context > 1 else ""
    )
    sys.stdout.write(
        f"| {number} | {mode} | {frames}, {width}x{height} | {world}{shared} | {clips} | {adapters} | {alone} "
        f"| {traced.peak_bytes / 1e9:.2f} | {peak / 1e9:.2f} | {off:+.2%} | {traced.flops / 1e15:.4f} | {off_flops:+.3%} |\n"
    )
    sys.stdout.flush()
    sys.stderr.write(f"{number}: {time.monotonic() - began:.0f} s\n")
    return -MOST_BELOW <= off <= MOST_ABOVE and abs(off_flops) <= FLOPS


if __name__ == "__main__":
    if sys.argv[1:2] == [LINE]:
        given = int(sys.argv[2])
        sys.exit(0 if _line(given, **SPECS[given - 1]) else 1)
    sys.exit(main([int(text) for text in sys.argv[1:]] or list(range(1, len(SPECS) + 1))))
