"""What holds for the transformer whatever its weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mochi_trainer.model import DiTParams
from mochi_trainer.model.layers import rotary_angles, rotated, timestep_features
from tests.trainer.numerics import TINY, difference, draw, tiny_dit


def velocity(x: Tensor, text: Tensor, mask: Tensor | None, sigma: float = 0.4) -> Tensor:
    with torch.no_grad():
        return tiny_dit()(x, torch.full((len(x),), sigma), text, mask)


def test_padding_changes_nothing() -> None:
    x, text = draw(1, 12, 2, 4, 6), draw(1, 5, 64, seed=1)
    padded = torch.cat([text, 100 * draw(1, 4, 64, seed=2)], dim=1)
    mask = torch.arange(9)[None] < 5
    assert difference(velocity(x, padded, mask), velocity(x, text, None)) <= 1e-12


def test_a_batch_of_two_equals_two_of_one() -> None:
    x, text = draw(2, 12, 2, 4, 6), draw(2, 8, 64, seed=1)
    mask = torch.arange(8)[None] < torch.tensor([[8], [3]])
    both = velocity(x, text, mask)
    alone = torch.cat([velocity(x[:1], text[:1], None), velocity(x[1:], text[1:, :3], None)])
    assert difference(both, alone) <= 1e-12


def test_a_mask_without_valid_tokens_is_the_prompt_without_tokens() -> None:
    x, text = draw(1, 12, 2, 4, 6), draw(1, 8, 64, seed=1)
    nothing = velocity(x, text, torch.zeros(1, 8, dtype=torch.bool))
    assert difference(nothing, velocity(x, text[:, :0], None)) <= 1e-12
    assert difference(nothing, velocity(x, text, None)) > 1e-3


def test_the_noise_level_and_the_text_change_the_velocity() -> None:
    x, text = draw(1, 12, 2, 4, 6), draw(1, 8, 64, seed=1)
    base = velocity(x, text, None)
    assert difference(velocity(x, text, None, sigma=0.41), base) > 1e-4
    assert difference(velocity(x, text.flip(-1), None), base) > 1e-3


def test_rotation_keeps_lengths_and_depends_on_differences_of_position_only() -> None:
    frequencies = draw(3, 2, 8, seed=1) * 0.1
    cos, sin = rotary_angles(frequencies, 4, 1, 1)
    q, k = draw(1, 1, 2, 16, seed=2).expand(1, 4, 2, 16), draw(1, 1, 2, 16, seed=3).expand(1, 4, 2, 16)
    turned_q, turned_k = rotated(q, cos, sin), rotated(k, cos, sin)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    products = torch.einsum("bmap,bnap->amn", turned_q, turned_k)
    torch.testing.assert_close(products[:, 1:, 1:], products[:, :-1, :-1])


def test_timestep_features_are_cosines_then_sines_of_a_thousand_times_one_minus_sigma() -> None:
    features = timestep_features(torch.tensor([0.75], dtype=torch.float64), 4)
    angles = torch.tensor([250.0, 250.0 / 100], dtype=torch.float64)
    torch.testing.assert_close(features, torch.cat([angles.cos(), angles.sin()])[None])


def test_latents_that_do_not_divide_into_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 2, got 3 x 4"):
        velocity(draw(1, 12, 1, 3, 4), draw(1, 2, 64), None)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="even multiple of heads = 5, got 3072"):
        DiTParams(heads=5)
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        DiTParams(depth=0)


def test_hidden_widths_are_the_published_ones() -> None:
    params = DiTParams()
    assert (params.mlp_width(3072), params.mlp_width(1536), TINY.mlp_width(96)) == (8192, 4096, 256)


class Attended(TorchDispatchMode):
    """Keeps the queries, keys and values that the attention operator is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[Tensor, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.mochi.attention.default:
            self.inputs.append(tuple(tensor.clone() for tensor in args[:3]))
        return func(*args, **(kwargs or {}))


def test_rotation_leaves_text_and_values_untouched() -> None:
    model = copy.deepcopy(tiny_dit())
    x, text = draw(1, 12, 2, 4, 6), draw(1, 5, 64, seed=1)
    seen = []
    for _ in range(2):
        with torch.no_grad(), Attended() as attended:
            model(x, torch.tensor([0.4]), text)
        seen.append(attended.inputs[0])  # of the first block, before positions can have spread
        model.pos_frequencies.data *= 1.7
    visual = seen[0][0].shape[1] - 5
    for index, (before, after) in enumerate(zip(*seen, strict=True)):
        assert torch.equal(before[:, visual:], after[:, visual:])
        assert torch.equal(before[:, :visual], after[:, :visual]) == (index == 2)
