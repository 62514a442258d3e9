"""Each stage tells how far it is, and what it does after its clips does not take that back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mochi_api.runfile import RunFile
from mochi_trainer.jobs import captions, trim, videos
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.movement import PROCESS
from tests.trainer.preprocessing_runs import run_file, write_source


def counts(job: Callable[[RunFile], Finished], run: RunFile) -> tuple[Finished, list[tuple[int, int]]]:
    """How the job ended, and each "so many of so many" that its sign of life has shown on the way."""
    shown: list[tuple[int, int]] = []

    def look() -> None:
        sign = PROCESS.heartbeat()
        if sign.activity == "working":
            shown.append((sign.done, sign.total))

    with PROCESS.heard(look):
        return job(run), list(dict.fromkeys(shown))


def test_stages_count_their_clips_and_captions(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_source(tmp_path / "source")
    trimmed, seen = counts(trim.execute, run_file(tmp_path))
    assert seen[-3:] == [(0, 2), (1, 2), (2, 2)]
    keys = {"trim": trimmed.result.cache_key}  # type: ignore[union-attr]
    settings = {"videos": {"reconstructEvery": 1}}
    _, seen = counts(captions.execute, run_file(tmp_path, stage="captions", keys=keys))
    assert seen[-4:] == [(0, 3), (1, 3), (2, 3), (3, 3)]  # with the empty one
    _, seen = counts(videos.execute, run_file(tmp_path, stage="videos", keys=keys, **settings))
    assert seen[-3:] == [(0, 2), (1, 2), (2, 2)]
