"""The Job of one attempt of a step around the training."""

from __future__ import annotations

from typing import Any

from mochi_api import identity, resolved
from mochi_operator.build.pod import template
from mochi_operator.build.recipe import Recipe, metadata
from mochi_operator.cluster import JOBS, Manifest


def step_job(recipe: Recipe) -> Manifest:
    """One Job, one try: attempts and deadlines are the operator's. One pod, or one for each shard of the stage.

    It carries no time to live, since its pod's last message is the step's result.
    """
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.name,
        "metadata": metadata(recipe, recipe.child),
        "spec": {
            **_indexed(resolved.shards(recipe.spec.preprocessing, recipe.step)),
            "backoffLimit": 0,
            "template": template(recipe, container=identity.STAGE_CONTAINER),
        },
    }


def _indexed(shards: int) -> dict[str, Any]:
    """Pods with numbers, all at once; Kubernetes tells each its own in JOB_COMPLETION_INDEX."""
    if shards == 1:
        return {}
    return {"completionMode": "Indexed", "completions": shards, "parallelism": shards}
