"""The transformer against the one of Diffusers, with the same weights."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from diffusers import MochiTransformer3DModel
from torch import Tensor

from mochi_trainer.flow import loss
from mochi_trainer.weights.diffusers_layout import dit_layout
from tests.trainer.numerics import TINY, Float64, difference, draw, noted, tiny_dit
from tests.trainer.tiny_of_diffusers import diffusers_dit

pytestmark = pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
LENGTHS = {"one caption": [7], "two captions": [7, 3], "one of them empty": [0, 5], "empty prompt": [0]}


theirs_of = functools.cache(diffusers_dit)


def inputs(
    lengths: list[int], dtype: torch.dtype, shape: tuple[int, int, int] = (3, 6, 10)
) -> tuple[Tensor, ...]:
    batch = len(lengths)
    x = draw(batch, 12, *shape, seed=1, dtype=dtype)
    sigma = torch.tensor([0.3, 0.9][:batch], dtype=dtype)
    text = draw(batch, 9, TINY.text_feature_width, seed=2, dtype=dtype)
    mask = torch.arange(9)[None] < torch.tensor(lengths)[:, None]
    return x, sigma, text, mask


def theirs_at(
    theirs: MochiTransformer3DModel, x: Tensor, sigma: Tensor, text: Tensor, mask: Tensor
) -> Tensor:
    return theirs(x, text, timestep=(1 - sigma) * 1000, encoder_attention_mask=mask, return_dict=False)[0]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("shape", [(3, 6, 10), (1, 2, 6)], ids=["clip", "one latent frame, odd patch rows"])
def test_the_velocity_is_that_of_diffusers_in_float64(
    lengths: list[int], shape: tuple[int, int, int]
) -> None:
    ours = tiny_dit()
    theirs = theirs_of(ours.pos_frequencies.dtype)
    batch = inputs(lengths, torch.float64, shape)
    with torch.no_grad(), Float64():
        assert difference(ours(*batch), theirs_at(theirs, *batch)) <= 1e-9


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_the_velocity_is_that_of_diffusers_in_float32(lengths: list[int]) -> None:
    ours = tiny_dit(torch.float32)
    theirs = theirs_of(ours.pos_frequencies.dtype)
    batch = inputs(lengths, torch.float32)
    with torch.no_grad():
        assert difference(ours(*batch), theirs_at(theirs, *batch)) <= 2e-5


def test_bfloat16_stays_near_float32() -> None:
    batch = inputs([7, 3], torch.float32)
    with torch.no_grad():
        exact = tiny_dit(torch.float32)(*batch)
        half = copy.deepcopy(tiny_dit(torch.float32)).to(torch.bfloat16)
        half.pos_frequencies.data = tiny_dit(torch.float32).pos_frequencies.data
        assert difference(half(*batch), exact) <= 0.03


def test_gradients_are_those_of_diffusers() -> None:
    ours = tiny_dit()
    theirs = theirs_of(ours.pos_frequencies.dtype)
    batch = inputs([7, 3], torch.float64)
    target = draw(*batch[0].shape, seed=3)
    with Float64():
        loss(ours(*batch), target).backward()
        loss(theirs_at(theirs, *batch), target).backward()
    expected = dict(theirs.named_parameters())
    gradients = dit_layout(
        {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None},
        TINY.depth,
    )
    # unused: the text queries of the last block, whose output nobody reads
    assert {name for name in expected if expected[name].grad is not None} == gradients.keys()
    worst = max(
        float(
            (gradients[name] - expected[name].grad).abs().max()
            / expected[name].grad.abs().max().clamp(min=1e-6)
        )
        for name in gradients
    )
    assert noted(worst) <= 1e-8
