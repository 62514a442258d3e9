"""Specs that both versions know: small ones, and one in which nothing that a run file carries is a default."""

from __future__ import annotations

from typing import Any

from tests.operator.world import full, lora

RICH: dict[str, Any] = {
    "mode": "lora",
    "model": {"preset": "nano", "source": {"pvc": {"claimName": "weights", "path": "/nano"}}},
    "dataset": {"source": {"pvc": {"claimName": "clips", "path": "/dissolve"}}, "maxClips": 9},
    "storage": {
        "outputURI": "s3://runs/dissolve/",
        "cacheURI": "s3://shared/",
        "s3": {
            "endpoint": "https://minio.example:9000",
            "region": "eu-1",
            "pathStyle": True,
            "credentialsSecretName": "s3",
        },
    },
    "preprocessing": {
        "frames": 13,
        "width": 64,
        "height": 48,
        "fps": 24,
        "durationSeconds": "1.5",
        "missingCaption": "Skip",
        "maxFailedItemsPercent": 50,
        "cachePolicy": "Refresh",
        "captions": {"gpus": 1},
        "videos": {"gpus": 1, "reconstructEvery": 1},
    },
    "training": {
        "steps": 7,
        "learningRate": "0.005",
        "warmupSteps": 2,
        "schedule": "Constant",
        "weightDecay": "0.1",
        "globalBatchSize": 2,
        "gradientClip": "0.5",
        "captionDropout": "0.2",
        "seed": 7,
        "lora": {
            "rank": 4,
            "alpha": 8,
            "rsLora": True,
            "dropout": "0.1",
            "targets": ["query", "text_mlp_out"],
            "startFrom": "s3://runs/first/lora.safetensors",
            "exportMerged": True,
        },
        "checkpoint": {"everySteps": 3, "keepLast": 2},
    },
    "sampling": {"steps": 8, "guidance": "4.5", "seed": 1, "gpus": 1, "prompts": ["a rabbit", "naïve: ⟨x⟩"]},
    "workers": {
        "resources": {"cpu": "1"},
        "podTemplate": {"tolerations": [{"key": "nvidia.com/gpu"}]},
    },
    "runPolicy": {"backoffLimit": 1},
}
PUBLISHED: dict[str, Any] = {
    "mode": "full",
    "model": {"source": {"s3": {"uri": "s3://weights/mochi-1"}}},
    "dataset": {"source": {"s3": {"uri": "s3://clips/dissolve/"}}},
    "storage": {"outputURI": "s3://runs/dissolve/"},
}


def stored(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec as the API server stored it with the pinned CRD, whose default is another by now."""
    return {**spec, "training": {"learningRate": "0.0002", **spec.get("training", {})}}


SPECS: dict[str, dict[str, Any]] = {
    "lora-nano": lora(),
    "full-nano": stored(full()),
    "full-published": stored(PUBLISHED),
    "lora-rich": RICH,
}
