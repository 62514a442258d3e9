"""The Job of one attempt of a step around the training."""

from __future__ import annotations

from mochi_api import identity
from mochi_operator.build.pod import template
from mochi_operator.build.recipe import Recipe, metadata
from mochi_operator.cluster import JOBS, Manifest


def step_job(recipe: Recipe) -> Manifest:
    """One Job, one pod, one try: attempts and deadlines are the operator's.

    It carries no time to live, since its pod's last message is the step's result.
    """
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.name,
        "metadata": metadata(recipe, recipe.child),
        "spec": {"backoffLimit": 0, "template": template(recipe, container=identity.STAGE_CONTAINER)},
    }
