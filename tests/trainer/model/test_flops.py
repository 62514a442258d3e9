"""FLOPs at the published size, counted on tensors without memory, against their closed form.

N visual and L text tokens, S = N + L; D = 3072 and E = 1536 are the widths of the streams. A block's visual matrices
have 4 D D + 3 D 8192 weights, those of the text 3 E D + D E + 3 E 4096; each weight costs two operations a token.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mochi_trainer.lora import LoraParams, attach
from mochi_trainer.model import DiT, DiTParams

TEXT = 256
VISUAL_WEIGHTS = 4 * 3072 * 3072 + 3 * 3072 * 8192
TEXT_WEIGHTS = 3 * 1536 * 3072 + 3072 * 1536 + 3 * 1536 * 4096


def linear(frames: int, depth: int) -> float:
    """Operations of the matrices of the blocks; the last one leaves the text as it is."""
    n = latent_frames(frames) * 30 * 53
    return 2 * depth * n * VISUAL_WEIGHTS + 2 * (depth - 1) * TEXT * TEXT_WEIGHTS


def scores(frames: int, depth: int) -> float:
    """Operations of the attention of the blocks."""
    return 4 * (latent_frames(frames) * 30 * 53 + TEXT) ** 2 * 3072 * depth


def latent_frames(frames: int) -> int:
    return (frames - 1) // 6 + 1


def forward(model: DiT, frames: int, device: str = "cpu") -> torch.Tensor:
    x = torch.empty(1, 12, latent_frames(frames), 60, 106, device=device)
    text = torch.empty(1, TEXT, 4096, device=device)
    out: torch.Tensor = model(x, torch.empty(1, device=device), text)
    return out


def counted(frames: int, depth: int) -> tuple[int, int]:
    """All operations of a forward pass at 480 x 848, and those of its attention."""
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(DiT(DiTParams(depth=depth)), frames)
    return counter.get_total_flops(), counter.get_flop_counts()["Global"][torch.ops.mochi.attention]


def test_a_forward_pass_of_37_frames_of_the_published_model_costs_its_closed_form() -> None:
    total, attention = counted(37, 48)
    assert attention == scores(37, 48)
    assert total == pytest.approx(linear(37, 48) + scores(37, 48), rel=0.001)
    assert total == pytest.approx(198.4e12, rel=0.001)


def test_a_forward_pass_of_85_frames_of_the_published_model_costs_its_closed_form() -> None:
    (two, _), (three, attention) = counted(85, 2), counted(85, 3)
    total = two + 46 * (three - two)  # all blocks but the last are alike
    assert attention == scores(85, 3)
    assert total == pytest.approx(linear(85, 48) + scores(85, 48), rel=0.001)
    assert total == pytest.approx(603.0e12, rel=0.001)


@pytest.mark.parametrize(("mode", "linears"), [("full", 3), ("lora", 2)])
def test_a_training_step_costs_two_or_three_times_the_matrices_and_three_and_a_half_times_the_attention(
    mode: str, linears: int
) -> None:
    frames, depth = 37, 3
    with torch.device("meta"):
        model = DiT(DiTParams(depth=depth))
        if mode == "lora":
            attach(model, LoraParams(rank=16, alpha=16))
    with FlopCounterMode(display=False) as counter:
        forward(model, frames, "meta").sum().backward()
    counts = counter.get_flop_counts()["Global"]
    assert counts[torch.ops.mochi.attention] == scores(frames, depth)
    assert counts[torch.ops.mochi.attention_backward] == 2.5 * scores(frames, depth)
    expected = linears * linear(frames, depth) + 3.5 * scores(frames, depth)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)
