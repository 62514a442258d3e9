"""What is evaluated: the same for the same clips, evenly over the noise levels, and no more of it than it may cost."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from mochi_api.resolved import LEAST_LEVELS, levels_a_clip
from mochi_trainer import sigma_bins
from mochi_trainer.data import TextFeatures
from mochi_trainer.presets import preset_named
from mochi_trainer.seeds import stream
from mochi_trainer.train.draws import mixed
from mochi_trainer.train.evaluation import Case, fixed_batch, held_out

NAMES = tuple(f"clip-{number}" for number in range(300))


def cases(clips: int, levels: int | None = None) -> list[Case]:
    return held_out(range(clips), NAMES, levels)


@pytest.mark.parametrize(("clips", "levels"), [(1, 32), (2, 16), (3, 8), (4, 8), (5, 4), (8, 4), (256, 4)])
def test_few_clips_have_more_levels_and_together_cost_no_more_than_eight(clips: int, levels: int) -> None:
    assert levels_a_clip(clips) == levels
    assert len(cases(clips)) == clips * levels <= max(32, 4 * clips)


@pytest.mark.parametrize("clips", range(1, 10))
def test_each_clip_is_evaluated_as_often_in_every_bin(clips: int) -> None:
    found = Counter((case.clip, sigma_bins.bin_of(case.sigma)) for case in cases(clips))
    assert set(found.values()) == {levels_a_clip(clips) // sigma_bins.BINS}
    assert len(found) == clips * sigma_bins.BINS


@pytest.mark.parametrize("clips", [5, 8, 20])
def test_what_an_earlier_version_evaluated_is_evaluated_still(clips: int) -> None:
    """Four levels, each with a noise of its own; also for few clips, where a run began so."""
    for found in (cases(clips), cases(3, LEAST_LEVELS)):
        assert [case.sigma for case in found[:4]] == [0.125, 0.375, 0.625, 0.875]
        assert [(case.number, case.mirrored) for case in found[:4]] == [(n, False) for n in range(4)]
    assert [case.sigma for case in fixed_batch(range(9), seed=1)] == 4 * [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("clips", [1, 2, 3, 4])
def test_with_more_levels_each_noise_is_there_once_and_once_as_its_negative(clips: int) -> None:
    found = cases(clips)
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert (one.clip, one.seed, one.number) == (other.clip, other.seed, other.number)
        assert (one.mirrored, other.mirrored) == (False, True)
        assert sigma_bins.bin_of(one.sigma) == sigma_bins.bin_of(other.sigma)


def test_a_clip_has_the_same_noise_whichever_others_are_held_out() -> None:
    """So that losses of two runs with the same clips can be compared."""
    assert cases(3)[-8:] == held_out([2, 7, 9], NAMES)[:8]


def test_the_negative_of_a_noise_is_mixed_and_asked_for() -> None:
    statistics, sigma = preset_named("nano").latents, torch.tensor([0.25])
    z = torch.randn(1, len(statistics.mean), 2, 4, 6)
    one, other = (
        mixed(
            z,
            TextFeatures(features=torch.zeros(0, 64)),
            statistics,
            sigma,
            stream(1, "held-out"),
            mirrored=each,
        )
        for each in (False, True)
    )
    clean = (one.target + other.target) / 2
    torch.testing.assert_close(one.x + other.x, 2 * (1 - sigma) * clean)
    assert not torch.equal(one.x, other.x)
