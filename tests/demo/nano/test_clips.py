"""Clips drawn in code show what their captions say."""

from __future__ import annotations

import pytest
import torch

from demo.nano.clips import COLOURS, DIRECTIONS, GROUNDS, moving_shape, moving_texture


@pytest.mark.parametrize("seed", range(12))
def test_the_shape_has_the_colour_and_the_direction_of_the_caption(seed: int) -> None:
    clip = moving_shape(torch.Generator().manual_seed(seed))
    _, colour, _, _, direction, _, _, ground, _ = clip.caption.split()
    contrast = torch.tensor(COLOURS[colour]) - torch.tensor(GROUNDS[ground])
    shown = (
        (clip.video - torch.tensor(GROUNDS[ground])[:, None, None, None]) * contrast[:, None, None, None]
    ).sum(0)
    shown = (shown / contrast.square().sum() > 0.5).float()
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(112.0), indexing="ij")
    area = shown.sum((1, 2))
    path = torch.stack([(shown * axis).sum((1, 2)) / area for axis in (rows, columns)])
    step = path[:, -1] - path[:, 0]
    assert torch.cosine_similarity(step, torch.tensor(DIRECTIONS[direction]), dim=0) > 0.95


def test_clips_follow_their_generator_and_stay_in_range() -> None:
    for draw in (moving_shape, moving_texture):
        first, again, other = (draw(torch.Generator().manual_seed(seed)).video for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert (first.shape, float(first.abs().max()) <= 1) == ((3, 13, 64, 112), True)
