"""Specs that break one rule each, and what the refusal must say; used against pydantic and against the API server."""

from __future__ import annotations

import copy
from typing import Any

_SMALLEST = {
    "mode": "lora",
    "model": {"preset": "nano"},
    "dataset": {"source": {"s3": {"uri": "s3://demo/clips/"}}},
    "storage": {"outputURI": "s3://demo/out/"},
}


def spec(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The smallest valid spec with `changes`: dotted path -> value; None removes the field."""
    document = copy.deepcopy(_SMALLEST)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        node: dict[str, Any] = document
        for part in parents:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return document


RULE_ERRORS: list[tuple[str, dict[str, Any], str]] = [
    (
        "frames 86 with lora",
        {"preprocessing.frames": 91},
        "spec.preprocessing.frames must be at most 85 with mode lora (one GPU), got 91",
    ),
    (
        "frames off the grid",
        {"preprocessing.frames": 86},
        "spec.preprocessing.frames must be 1 more than a multiple of 6, got 86; the nearest are 85 and 91",
    ),
    (
        "frames 86 and lora at once",
        {"preprocessing.frames": 86},
        "spec.preprocessing.frames must be at most 85 with mode lora (one GPU), got 86",
    ),
    (
        "both sources",
        {"dataset.source.pvc": {"claimName": "clips"}},
        "spec.dataset.source must have exactly one of s3 and pvc, got 2",
    ),
    ("no source", {"dataset.source": {}}, "spec.dataset.source must have exactly one of s3 and pvc, got 0"),
    (
        "both model sources",
        {"model.source": {"s3": {"uri": "s3://models/m/"}, "pvc": {"claimName": "m"}}},
        "spec.model.source must have exactly one of s3 and pvc, got 2",
    ),
    (
        "published model without its weights",
        {"model": {"preset": "mochi-1"}},
        "spec.model.source must be set for preset mochi-1: it names the folder with the published weights",
    ),
    (
        "too many pixels",
        {"preprocessing.width": 848, "preprocessing.height": 496},
        "spec.preprocessing.width x height must be at most 407040 pixels (848x480), got 848x496 = 420608",
    ),
    (
        "the guide's arithmetic",
        {"preprocessing.frames": 85, "preprocessing.durationSeconds": "2.5"},
        "spec.preprocessing.durationSeconds must be at least frames / fps = 85 / 30 s, got 2.5, which holds 75 frames; "
        "the nearest number of frames that fits is 73",
    ),
    ("lora section with full", {"mode": "full", "training.lora": {"rank": 4}},
     "spec.training.lora must be left out with mode full, which trains all weights"),
    ("two pods with lora", {"workers.replicas": 2}, "spec.workers.replicas must be 1 with mode lora, got 2"),
    ("batch not a multiple", {"mode": "full", "training.globalBatchSize": 12},
     "spec.training.globalBatchSize must be a multiple of the 8 training pods, got 12"),
    ("warm-up longer than training", {"training.steps": 10, "training.warmupSteps": 11},
     "spec.training.warmupSteps must be at most steps = 10, got 11"),
    ("a target twice", {"training.lora": {"targets": ["query", "query"]}},
     "spec.training.lora.targets must not repeat a projection, got query,query"),
]  # fmt: skip
"""Name, changes, message."""

FIELD_ERRORS: list[tuple[str, dict[str, Any], list[str]]] = [
    (
        "rank 0",
        {"training.lora": {"rank": 0}},
        ["spec.training.lora.rank", "0", "greater than or equal to 1"],
    ),
    ("rank 257", {"training.lora": {"rank": 257}}, ["spec.training.lora.rank", "257", "256"]),
    ("unknown mode", {"mode": "qlora"}, ["spec.mode", "qlora", "lora", "full"]),
    (
        "frames 200 with full",
        {"mode": "full", "preprocessing.frames": 199},
        ["spec.preprocessing.frames", "199", "163"],
    ),
    ("unknown field", {"training.learningrate": "0.1"}, ["training.learningrate"]),
    ("a float", {"training.learningRate": 0.1}, ["spec.training.learningRate", "string"]),
    (
        "learning rate 0",
        {"training.learningRate": "0"},
        ["spec.training.learningRate", "more than 0", "got 0"],
    ),
    ("learning rate in words", {"training.learningRate": "fast"}, ["spec.training.learningRate", "fast"]),
    ("width 100", {"preprocessing.width": 100}, ["spec.preprocessing.width", "100", "16"]),
    ("not an S3 address", {"storage.outputURI": "http://x/y"}, ["spec.storage.outputURI", "http://x/y"]),
    ("no dataset", {"dataset": None}, ["spec.dataset"]),
]
"""Name, changes, words that the API server's message must hold."""
