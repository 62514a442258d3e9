"""Operations and peak memory of a step of the published model, traced with all 48 blocks on tensors without memory.

    python tests/bench/step_costs.py            the table of docs/explanation/performance.md
    python tests/bench/step_costs.py lora 37    one mode, one length

Each line takes minutes: two steps, one for the operations and one for the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from mochi_trainer.model import DiTParams
from mochi_trainer.plan import trace_step
from tests.trainer.plan_costs import Mode, attention_kept

LENGTHS = (37, 61, 79, 85, 163)
CASES: list[tuple[Mode, int, int, int]] = [
    *(("lora", frames, 1, 0) for frames in LENGTHS),
    ("lora", 37, 1, 18),
    ("lora", 85, 1, 4),
    *(("full", frames, 8, 0) for frames in LENGTHS),
]
"""Mode, frames, ranks, blocks left alone."""


def lines(wanted: Sequence[str]) -> Iterator[str]:
    yield "| mode | frames | ranks | blocks left alone | PFLOP | against attention kept | peak of a rank |"
    yield "|---|---|---|---|---|---|---|"
    for mode, frames, world, left_alone in CASES:
        if wanted and wanted != [mode, str(frames)]:
            continue
        found = trace_step(DiTParams(), frames, mode, world=world, left_alone=left_alone)
        times = found.flops / attention_kept(frames, mode)
        yield (
            f"| {mode} | {frames} | {world} | {left_alone} | {found.flops / 1e15:.3f} | {times:.4f} "
            f"| {found.peak_bytes / 1e9:.1f} GB |"
        )


if __name__ == "__main__":
    for line in lines(sys.argv[1:]):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
