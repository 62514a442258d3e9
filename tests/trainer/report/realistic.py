"""A run as people have it, of any size: clips, failures of several reasons, warnings, reconstructions, curves, samples."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from mochi_api.clips import CLIP_TABLE, ClipReason, ClipWarning
from mochi_api.outcomes import Item, Outcome, StageResult, TrainingResult
from mochi_trainer.likeness import psnr, ssim
from mochi_trainer.report.record import StageRecord, write_record
from mochi_trainer.storage import Store, put_bytes_entry, write_manifest
from mochi_trainer.video import Cut, contact_sheet, encode_mp4, read_clip, side_by_side, strip
from tests.trainer.video.clips import real_clip

REAL = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
WORDS = (
    "a",
    "slow",
    "shot",
    "of",
    "two",
    "children",
    "who",
    "run",
    "over",
    "wet",
    "sand",
    "while",
    "gulls",
    "rise",
)
WHY = {
    ClipReason.TOO_SHORT: "37 frames are needed at 30 fps, the clip has 21 (0.7 s)",
    ClipReason.CORRUPT: "damaged after frame 12: the file is cut off at 1048576 of 8388608 bytes",
    ClipReason.UNSUPPORTED: "codec vvc is not read: ffmpeg -i clip.mov -c:v libx264 -crf 12 clip.mp4",
    ClipReason.EMPTY_CAPTION: "the caption has no words",
    ClipReason.INVALID_CAPTION: "the caption is UTF-16; save it as UTF-8",
    ClipReason.TIMEOUT: "decoding took longer than 120 s",
}
SAID = {
    ClipWarning.HDR_CONVERTED: "PQ, 1000 nits: tone-mapped to BT.709",
    ClipWarning.DEINTERLACED: "interlaced, top field first: made progressive",
    ClipWarning.DARK: "mean luma 9 of 255",
    ClipWarning.STATIC: "no pixel moves by more than 2 of 255",
    ClipWarning.BLACK_BARS: "bars of 62 pixels above and below",
    ClipWarning.NEAR_DUPLICATE: "nearly the same as clips/0007.mov",
}


def record(stage: str, outcome: Outcome, **fields: Any) -> StageRecord:
    """A record of a stage that took 83.2 s."""
    return StageRecord(
        stage=stage, outcome=outcome, started="2026-01-01T00:00:00+00:00", seconds=83.2, **fields
    )


def write_run(
    store: Store, cache: Store, folder: Path, *, clips: int, failed: int, compared: int = 12, width: int = 848
) -> None:
    """Records of all stages into `store` and `cache`; the same arguments write the same. `width` is that of the pictures."""
    rng = random.Random(7)
    videos = [
        read_clip(
            real_clip(name), Cut(frames=37, least=7, fps=30, width=width, height=width * 9 // 32 * 2)
        ).frames
        for name in REAL
    ]
    strips = [strip(frames, 3, width=480) for frames in videos]
    described = [_clip(rng, number) for number in range(clips)]
    entries = [
        put_bytes_entry(cache, "trim/k1", strips[number % len(strips)], f"{clip['name']}.jpg")
        for number, clip in enumerate(described[:400])
    ]
    write_manifest(cache, "trim/k1", entries, {"clips": described, "failures": [], "skipped": []})
    tokens = {clip["name"]: min(256, len(clip["caption"].split()) * 4 // 3 + 2) for clip in described}
    write_manifest(cache, "captions/k4", [], {"tokens": tokens})
    said = [
        {"clip": clip["source"], "warnings": {name: SAID[name] for name in rng.sample(list(SAID), k=1 + (rng.random() > 0.8))}}
        for clip in described if rng.random() < 0.15
    ]  # fmt: skip
    known = [row.reason for row in CLIP_TABLE if row.reason in WHY]
    failures = [
        Item.of(f"clips/bad {number:03d}.mov", WHY[reason], reason)
        for number in range(failed)
        for reason in [known[number * number % len(known)]]
    ]
    total = StageResult(cache_key="k1", items_total=clips + failed, items_done=clips, items_failed=failed)
    write_record(
        store,
        record(
            "trim",
            Outcome(
                reason="Completed", stage_result=total, message=f"made {clips} of {clips + failed} clips"
            ),
            failures=failures,
            details={"skipped": [], "warnings": said},
        ),
    )
    done = Outcome(reason="Completed", stage_result=StageResult(cache_key="k4", items_done=clips))
    write_record(store, record("captions", done, details={"truncated": {described[1]["source"]: 311}}))
    lines = [_comparison(cache, described[10 * n]["source"], videos[n % 3], n) for n in range(compared)]
    done = Outcome(reason="Completed", stage_result=StageResult(cache_key="k2", items_done=clips))
    write_record(store, record("videos", done, details={"reconstructions": lines}))
    _write_training(store, rng)
    _write_samples(store, folder, videos[0])


def _clip(rng: random.Random, number: int) -> dict[str, Any]:
    words = rng.choices(WORDS, k=rng.choice([8, 14, 22, 30, 90]) + rng.randrange(9))
    return {
        "name": f"c{number:05d}",
        "source": f"clips/{number:04d}.mov",
        "frames": rng.choice([37, 37, 61, 85, 163]),
        "width": 848,
        "height": 480,
        "caption": " ".join(words),
        "enlargement": round(rng.choice([0.22, 0.44, 0.44, 0.66, 1.0, 1.33]) * rng.uniform(0.95, 1.05), 3),
    }


def _comparison(cache: Store, source: str, frames: np.ndarray, number: int) -> dict[str, Any]:
    """The clip beside itself, coarser with each number."""
    size = 2 + number
    copy = np.repeat(np.repeat(frames[:7, ::size, ::size], size, axis=1), size, axis=2)[
        :, : frames.shape[1], : frames.shape[2]
    ]
    key = f"videos/k2/reconstructions/k3/{number}.png"
    cache.write_bytes(key, side_by_side(frames[:7], copy))
    scores = {
        "psnr": round(psnr(frames[:2], copy[:2]), 2),
        "ssim": round(ssim(frames[:2], copy[:2]), 4),
    }
    return {"clip": str(number), "source": source, **scores, "picture": key}


def _write_training(store: Store, rng: random.Random) -> None:
    result = TrainingResult(
        artifactURI="s3://runs/dissolve/lora.safetensors", sha256="ab" * 32, size_bytes=250_000_000
    )
    write_record(
        store, record("train", Outcome(reason="Completed", message="200 steps", training_result=result))
    )
    lines: list[dict[str, Any]] = [
        {"step": k, "loss": 0.4 + 0.8 / (k + 4) + rng.gauss(0, 0.05), "lr": 1e-4 * min(1, k / 20), "gradNorm": rng.uniform(0.2, 0.9), "stepSeconds": 4.2}
        for k in range(1, 201)
    ]  # fmt: skip
    for line in lines[::20]:
        line["fixedLoss"] = 0.4 + 0.7 / (line["step"] + 4)
    store.write_bytes("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode())


def _write_samples(store: Store, folder: Path, frames: np.ndarray) -> None:
    encode_mp4(frames, folder / "s.mp4", fps=30)
    store.put(folder / "s.mp4", "samples/0.mp4")
    store.write_bytes("samples/0.png", contact_sheet(frames, 4))
    sample = {"prompt": "a bus turns to dust", "seed": 7, "video": store.address("samples/0.mp4"), "sheet": store.address("samples/0.png")}  # fmt: skip
    done = Outcome(reason="Completed", message="1 video")
    write_record(
        store,
        record("sample", done, details={"samples": [sample]}, versions={"torch": "2.x", "image": ""}),
    )
