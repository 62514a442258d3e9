"""What is measured: modes and lengths, and for each the run file of a training that has everything but clips of somebody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from mochi_api import layout
from mochi_api.runfile import RunFile, explain
from mochi_api.spec import Mode, Preset
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.presets.catalogue import SIZES

WARM_UP = 3
"""Steps before any is counted: kernels are chosen and memory is reserved in them."""
SUSTAINED = 50
"""Steps that are counted, where the time is enough for them."""
_FRAMES = re.compile(r"[0-9]{1,9}")
KEY = "bench"
"""Of the dataset, in a cache that this command alone uses."""


class Case(NamedTuple):
    """One line of the table."""

    mode: Mode
    frames: int

    def __str__(self) -> str:
        return f"{self.mode}:{self.frames}"


USUAL: dict[str, tuple[Case, ...]] = {
    "mochi-1": (
        *(Case("lora", frames) for frames in (37, 85, 163, 61, 79)),
        *(Case("full", frames) for frames in (37, 85, 163, 61, 79)),
    ),
    "nano": (Case("lora", 13), Case("full", 13)),
}
"""By preset, the most telling ones first: what the time is not enough for is left out at the end."""


def cases(texts: list[str], preset: Preset) -> list[Case]:
    """The cases called `texts` (`lora:37`), or the usual ones of `preset`. Raises InvalidInputError for a text that is none."""
    return [_case(text, preset) for text in texts] or list(USUAL[preset])


def _case(text: str, preset: Preset) -> Case:
    mode, colon, frames = text.partition(":")
    if not colon or mode not in ("lora", "full") or not _FRAMES.fullmatch(frames) or int(frames) % 6 != 1:
        raise InvalidInputError(
            f"a case must be lora:FRAMES or full:FRAMES, frames 1 more than a multiple of 6, got {text}"
        )
    case = Case("lora" if mode == "lora" else "full", int(frames))
    try:
        run_of(case, preset, Path("/"), gpus=0)
    except ValidationError as error:
        raise InvalidInputError(f"a case must be of a training, got {text}: {explain(error)}") from error
    return case


def run_of(case: Case, preset: Preset, folder: Path, *, gpus: int) -> RunFile:
    """A training of `case` in one process, with the defaults of a MochiFineTune, whose cache is below `folder`.

    No caption is left out, so that every step does the same.
    """
    _, width, height, fps = SIZES[preset]
    training: dict[str, object] = {"steps": WARM_UP + SUSTAINED, "captionDropout": "0"}
    if case.mode == "lora":
        training["lora"] = {}
    return RunFile.model_validate(
        {
            "stage": "train",
            "run": {"namespace": "bench", "name": "bench", "uid": "bench"},
            "mode": case.mode,
            "model": {"preset": preset},
            "dataset": {"source": {"pvc": {"claimName": "none"}}},
            "preprocessing": {"frames": case.frames, "width": width, "height": height, "fps": fps},
            "training": training,
            "sampling": {},
            "s3": {},
            "locations": {
                "dataset": layout.folder(f"{folder}/clips"),
                "cache": layout.folder(f"{folder}/cache"),
                "run": layout.folder(f"{folder}/run"),
            },
            "keys": {"captions": KEY, "videos": KEY},
            "world": {"replicas": 1, "gpusPerPod": gpus},
        }
    )
