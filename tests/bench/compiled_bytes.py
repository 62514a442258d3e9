"""Bytes that a compiled block moves outside products and attention, beside those of the block operator by operator.

    python -m tests.bench.compiled_bytes [FRAMES ...]      37, 61, 79, 85 and 163 by default

One of the 48 blocks of the published model, forward and backward, 480 x 848, 256 text tokens, batch 1, LoRA of rank 16 on query
and value, and all weights. Counted in inductor's schedule, nothing is computed: `tests/trainer/compiled_bytes.py` says how.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from mochi_trainer.model import DiTParams
from tests.trainer.compiled_bytes import Mode, compiled, eager

LENGTHS = (37, 61, 79, 85, 163)
MODES: tuple[Mode, ...] = ("lora", "full")


def lines(lengths: Sequence[int]) -> Iterator[str]:
    yield "| mode | frames | operators, GB moved | kernels, GB moved when compiled | share of bytes |"
    yield "|---|---|---|---|---|"
    for mode in MODES:
        for frames in lengths:
            plain, fused = eager(mode, DiTParams(), frames), compiled(mode, DiTParams(), frames)
            yield (
                f"| {mode} | {frames} | {plain.kernels}, {plain.between / 1e9:.1f} "
                f"| {fused.kernels}, {fused.between / 1e9:.1f} | {fused.between / plain.between:.3f} |"
            )


if __name__ == "__main__":
    for line in lines([int(text) for text in sys.argv[1:]] or LENGTHS):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
