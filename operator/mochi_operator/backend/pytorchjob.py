"""Training by a worker-only PyTorchJob of the Kubeflow training operator, one for each attempt.

Worker-only, because a Master makes the training operator add an init container to the workers that Pod Security
`restricted` refuses. Retries and deadlines are ours: its backoffLimit counts only restarts of running pods, and its
activeDeadlineSeconds is looked at only when something else happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mochi_api import identity
from mochi_operator import names, observe
from mochi_operator.build.pod import from_field, template, value
from mochi_operator.build.recipe import Recipe, metadata
from mochi_operator.cluster import PYTORCHJOBS, Kind, Manifest
from mochi_operator.snapshot import Child

_RANK_PATH = f"metadata.labels['{observe.REPLICA_INDEX}']"


class PyTorchJobBackend:
    """`kubeflow.org/v1` PyTorchJob."""

    kind: Kind = PYTORCHJOBS

    def build(self, recipe: Recipe) -> Manifest:
        """The PyTorchJob `<name>-a<n>`."""
        return {
            "apiVersion": PYTORCHJOBS.api_version,
            "kind": PYTORCHJOBS.name,
            "metadata": metadata(recipe, recipe.child),
            "spec": {
                "runPolicy": {"cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": {
                    "Worker": {
                        "replicas": recipe.resolved.replicas,
                        "restartPolicy": "Never",
                        "template": template(
                            recipe,
                            container=identity.TRAINING_CONTAINER,
                            env=_gang(recipe),
                            grace_seconds=recipe.spec.run_policy.grace_period_seconds,
                        ),
                    }
                },
            },
        }

    def observe(self, raw: Mapping[str, Any]) -> Child:
        """How a PyTorchJob stands; its pods and Services go with it."""
        workers = raw["spec"].get("pytorchReplicaSpecs", {}).get("Worker", {})
        return replace(observe.child(raw), pods=workers.get("replicas", 1))


def _gang(recipe: Recipe) -> list[dict[str, Any]]:
    """How the pods find each other, by their numbers; without a Master the training operator sets none of it.

    In a pod with several GPUs the trainer starts a process for each, and makes these variables those of the processes.
    """
    return [
        from_field("RANK", _RANK_PATH),
        from_field("PET_NODE_RANK", _RANK_PATH),
        value("WORLD_SIZE", str(recipe.resolved.replicas)),
        value("LOCAL_RANK", "0"),  # of several GPUs the pod's first process tells each of the others its own
        value("MASTER_ADDR", names.master_address(recipe.child)),
        value("MASTER_PORT", str(names.master_port(recipe.run.namespace, recipe.child))),
        # A rank that hangs in a collective ends with an error instead of waiting for ever.
        value("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        value("NCCL_DEBUG", "WARN"),
    ]
