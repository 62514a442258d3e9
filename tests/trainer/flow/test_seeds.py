"""Named streams of random numbers."""

from __future__ import annotations

import torch

from mochi_trainer import seeds


def first(**place: int) -> float:
    return float(torch.rand(1, generator=seeds.stream(1, "noise", **place)))


def test_a_stream_depends_on_seed_purpose_step_and_rank_only() -> None:
    torch.manual_seed(5)
    before = first(step=3, rank=2)
    torch.manual_seed(6)
    assert first(step=3, rank=2) == before
    others = [
        first(step=4, rank=2),
        first(step=3, rank=1),
        float(torch.rand(1, generator=seeds.stream(2, "noise", step=3, rank=2))),
        float(torch.rand(1, generator=seeds.stream(1, "sigma", step=3, rank=2))),
    ]
    assert len({before, *others}) == 5


def test_streams_stay_as_they_are() -> None:
    """A changed number here means that resumed runs no longer go on as they began."""
    draws = torch.randint(2**31, (3,), generator=seeds.stream(42, "noise", step=1))
    assert draws.tolist() == [75879066, 907353648, 651048651]
