"""Runs that something happens to: told side by side, asserted one by one, each against the same run left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mochi_api import layout
from mochi_api.status import FineTuneStatus
from tests.e2e.lab import RUN_SECONDS, Lab

STEPS = 120
SPEC: Mapping[str, Any] = {
    "training.steps": STEPS,
    "training.checkpoint.everySteps": 10,
    "preprocessing.videos.reconstructEvery": 0,
    "sampling.prompts": [],
}
"""What all these runs have in common, so that all of them must end with the same weights."""
LIMIT = 3 * RUN_SECONDS
"""Longest time all stories of a module may take."""

Weights = Mapping[str, torch.Tensor]
Story = Callable[[Lab, Path], FineTuneStatus | None]
"""What happens to one run, from its creation to its end, in a folder of its own."""


def spec(**changes: Any) -> dict[str, Any]:
    """The common spec with `changes`; `__` stands for a dot."""
    return {**SPEC, **{key.replace("__", "."): value for key, value in changes.items()}}


@contextmanager
def under_way(lab: Lab, folder: Path, stories: Sequence[Story]) -> Iterator[Mapping[Story, Future[Any]]]:
    """All stories at once, each in a thread of its own; the context waits for their ends."""
    with ThreadPoolExecutor(len(stories)) as pool:
        yield {story: pool.submit(story, lab, _own(folder, story)) for story in stories}


def weights(lab: Lab, status: FineTuneStatus, folder: Path) -> Weights:
    """The LoRA that the status names."""
    assert status.artifacts is not None
    return load_file(lab.fetch(status.artifacts.lora_uri, folder / "lora.safetensors"))


def same(ours: Weights, others: Weights) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def reasons(status: FineTuneStatus) -> list[str]:
    """How the attempts of the training ended, the first one first; no number is missing."""
    told = list(reversed(status.attempts))
    assert [item.number for item in told] == list(range(1, len(told) + 1))
    return [item.reason for item in told]


def trained_steps(lab: Lab, status: FineTuneStatus) -> list[int]:
    """The steps in the metrics of the run."""
    assert status.artifacts is not None
    lines = lab.text(layout.join(status.artifacts.run_uri, layout.METRICS)).splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["step"] for row in rows if row["step"] > 0 and row.get("loss") is not None]


def _own(folder: Path, story: Story) -> Path:
    own = folder / story.__name__
    own.mkdir()
    return own
