"""Small preprocessing runs: a folder of real clips, and run files that name it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mochi_api.runfile import RunFile
from mochi_api.spec import S3Spec
from tests.trainer.video.clips import real_clip

CLIPS = {"bunny.mp4": "bigbuckbunny.mp4", "carphone.MOV": "carphone_pristine.mp4"}


def write_source(folder: Path) -> None:
    """Two real clips with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, original in CLIPS.items():
        shutil.copyfile(real_clip(original), folder / name)
        (folder / name).with_suffix(".txt").write_text(f"  the clip\n{name} ")


def run_file(
    root: Path | str,
    *,
    stage: str = "trim",
    source: str = "",
    keys: dict[str, str] | None = None,
    s3: S3Spec | None = None,
    max_clips: int = 0,
    uid: str = "0-1",
    **preprocessing: Any,
) -> RunFile:
    """A run of nano whose cache and results lie below `root`, a folder or an address."""
    base = str(root) if "://" in str(root) else f"file://{root}"
    section = {"frames": 7, "width": 48, "height": 32, "fps": 30, **preprocessing}
    return RunFile.model_validate(
        {
            "stage": stage,
            "run": {"namespace": "team", "name": "dissolve", "uid": uid},
            "mode": "lora",
            "model": {"preset": "nano"},
            "dataset": {"source": {"s3": {"uri": "s3://data/dissolve/"}}, "maxClips": max_clips},
            "preprocessing": section,
            "training": {"steps": 4, "warmupSteps": 1, "globalBatchSize": 1, "lora": {}},
            "sampling": {},
            "s3": s3 or S3Spec(),
            "locations": {
                "dataset": source or f"{base}/source",
                "cache": f"{base}/cache",
                "run": f"{base}/runs/{uid}",
            },
            "keys": keys or {},
        }
    )
