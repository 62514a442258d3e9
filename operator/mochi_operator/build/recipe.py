"""What every builder is given, and the metadata that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mochi_api import identity
from mochi_api.runfile import CacheKeys, Stage
from mochi_api.spec import FineTuneSpec
from mochi_api.status import Resolved
from mochi_operator import names
from mochi_operator.snapshot import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One child to make."""

    run: Run
    spec: FineTuneSpec
    resolved: Resolved
    step: Stage
    attempt: int = 1
    keys: CacheKeys = field(default_factory=CacheKeys)
    ca_bundle: str = ""
    """The chart's certificates in PEM; empty: none."""

    @property
    def child(self) -> str:
        """Name of the Job or of the training object."""
        return names.child(self.run.name, self.step, self.attempt)


def labels(recipe: Recipe) -> dict[str, str]:
    """Labels of a child and of its pods."""
    return names.labels(recipe.run.name, recipe.run.uid, recipe.step, recipe.attempt)


def metadata(recipe: Recipe, name: str) -> dict[str, Any]:
    """Metadata of one child, owned by the run, so that deleting the run deletes it."""
    return {
        "name": name,
        "namespace": recipe.run.namespace,
        "labels": labels(recipe),
        "ownerReferences": [
            {
                "apiVersion": identity.API_VERSION,
                "kind": identity.KIND,
                "name": recipe.run.name,
                "uid": recipe.run.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
