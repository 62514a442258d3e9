"""The best checkpoint is the one with the lowest loss, and training overfits when that lies clearly behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mochi_trainer.train.best import LATER, WORSE, best, overfits_from

courses = st.dictionaries(st.integers(0, 100), st.floats(0.1, 10), max_size=12)


@given(losses=courses, saved=st.sets(st.integers(0, 100)))
def test_no_saved_step_has_a_lower_loss_than_the_best(losses: dict[int, float], saved: set[int]) -> None:
    found = best(losses, saved)
    candidates = {step: loss for step, loss in losses.items() if step in saved}
    if found is None:
        assert not candidates
    else:
        assert candidates[found.step] == found.loss == min(candidates.values())
        assert not [step for step in candidates if step < found.step and candidates[step] == found.loss]


@given(losses=courses)
def test_what_overfits_has_been_clearly_worse_at_each_of_the_last_evaluations(
    losses: dict[int, float],
) -> None:
    found = overfits_from(losses)
    if found is None:
        return
    later = sorted(losses)[-LATER:]
    assert losses[found] == min(losses.values())
    assert later[0] > found
    assert all(losses[step] > WORSE * losses[found] for step in later)


def test_a_loss_that_falls_or_has_only_just_risen_or_trembles_does_not_overfit() -> None:
    assert overfits_from({0: 4.0, 10: 3.0, 20: 2.0, 30: 1.0}) is None
    assert overfits_from({0: 4.0, 10: 1.0, 20: 2.0, 30: 2.0}) is None
    assert overfits_from({0: 4.0, 10: 1.0, 20: 1.005, 30: 1.009, 40: 1.001}) is None
    assert overfits_from({0: 4.0, 10: 1.0, 20: 1.1, 30: 1.2, 40: 1.1}) == 10
