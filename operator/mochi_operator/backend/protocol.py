"""What the operator needs from whatever runs the training pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mochi_operator.build.recipe import Recipe
from mochi_operator.cluster import Kind, Manifest
from mochi_operator.snapshot import Child


class TrainingBackend(Protocol):
    """A kind of object that runs a gang of pods once."""

    @property
    def kind(self) -> Kind:
        """The kind of the object."""
        ...

    def build(self, recipe: Recipe) -> Manifest:
        """The object of one attempt."""
        ...

    def observe(self, raw: Mapping[str, Any]) -> Child:
        """How the object stands; deleting `ref` of the answer leaves nothing of the attempt."""
        ...
