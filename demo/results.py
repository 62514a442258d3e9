"""What a run left in S3, brought to a folder of this machine, with a contact sheet of each sample."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image

from demo.bucket import Bucket
from mochi_api import layout
from mochi_api.status import Artifacts

_LEFT_IN_S3 = ("attempts/", "checkpoints/", "stages/")
_OWNED_FILES = (
    Path(layout.LORA).name, Path(layout.LORA_COMFYUI).name, Path(layout.LORA_BEST).name, Path(layout.MERGED).name, Path(layout.WEIGHTS).name, Path(layout.UNAVERAGED).name, layout.REPORT, layout.METRICS, layout.HELD_OUT, layout.RUN_FILE, "README.md",
)  # fmt: skip
_OWNED_FOLDERS = ("samples", "logs", "tensorboard", layout.WANDB, Path(layout.DIFFUSERS).name)
_SHEET_COLUMNS = 4
_SHEET_FRAMES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One file that was made."""

    what: str
    path: Path
    uri: str
    """Its address in S3; empty for what only this machine has."""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size


def clear(folder: Path) -> None:
    """Remove what an earlier demo left in `folder`; nothing else in it is touched."""
    for name in _OWNED_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in _OWNED_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _kind(relative: str) -> str:
    kinds = {
        layout.LORA: "LoRA weights", layout.LORA_BEST: "LoRA weights of the best checkpoint",
        layout.EVENTS: "metrics for TensorBoard", layout.LORA_COMFYUI: "LoRA weights for ComfyUI", layout.WEIGHTS: "tuned weights", layout.REPORT: "report",
        layout.UNAVERAGED: "tuned weights without the average",
        layout.MERGED: "base with the LoRA in its weights",
        layout.METRICS: "metrics of every step", layout.HELD_OUT: "the clips that are held out", layout.RUN_FILE: "the effective configuration", layout.CARD: "model card",
    }  # fmt: skip
    if relative in kinds:
        return kinds[relative]
    if relative.startswith(f"{layout.DIFFUSERS}/"):
        return "tuned weights for Diffusers"
    endings = {".mp4": "sample video", ".png": "contact sheet"}
    return endings.get(Path(relative).suffix, "other")


def fetch(bucket: Bucket, artifacts: Artifacts, folder: Path) -> list[Result]:
    """Download everything of the run but checkpoints, and draw contact sheets where there are none."""
    clear(folder)
    root = bucket.key_of(artifacts.run_uri).rstrip("/") + "/"
    results = []
    for key, _ in bucket.keys(root):
        relative = key.removeprefix(root)
        if relative.startswith(_LEFT_IN_S3):
            continue
        path = folder / relative.removeprefix("artifacts/")
        bucket.get_file(key, path)
        results.append(Result(what=_kind(relative), path=path, uri=f"s3://{bucket.name}/{key}"))
    return sorted([*results, *_missing_sheets(results)], key=lambda result: (_rank(result), str(result.path)))


def _rank(result: Result) -> int:
    order = (
        "LoRA weights",
        "LoRA weights for ComfyUI",
        "LoRA weights of the best checkpoint",
        "tuned weights",
        "base with the LoRA in its weights",
        "tuned weights for Diffusers",
        "sample video",
        "contact sheet",
        "report",
    )
    return order.index(result.what) if result.what in order else len(order)


def _missing_sheets(results: Sequence[Result]) -> list[Result]:
    have = {result.path for result in results}
    sheets = []
    for result in results:
        sheet = result.path.with_suffix(".png")
        if result.what == "sample video" and sheet not in have:
            contact_sheet(result.path, sheet)
            sheets.append(Result(what="contact sheet", path=sheet, uri=""))
    return sheets


def contact_sheet(video: Path, target: Path) -> None:
    """Draw evenly spaced frames of `video` side by side into a PNG."""
    with av.open(str(video)) as container:
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    count = min(_SHEET_FRAMES, len(frames))
    chosen = [frames[index * (len(frames) - 1) // max(1, count - 1)] for index in range(count)]
    width, height = chosen[0].size
    rows = -(-count // _SHEET_COLUMNS)
    sheet = Image.new("RGB", (width * min(count, _SHEET_COLUMNS), height * rows))
    for index, frame in enumerate(chosen):
        sheet.paste(frame, (index % _SHEET_COLUMNS * width, index // _SHEET_COLUMNS * height))
    sheet.save(target)


def fixed_losses(metrics: Path) -> list[float]:
    """The finite losses of the fixed batch in `metrics.jsonl`, from before the first step to after the last."""
    found = []
    for line in metrics.read_text().splitlines():
        value = json.loads(line).get("fixedLoss")
        if isinstance(value, int | float):
            found.append(float(value))
    return found
