"""The weights of a saved state without the moments of its optimizer, which are two thirds of it: only their bytes are read.

A training that goes on removes old checkpoints. So whoever reads one beside it takes the newest, and when that is gone in
the middle the newest that is there by then.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from mochi_trainer.errors import InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.storage import DamagedObjectError, Manifest, Store, read_manifest
from mochi_trainer.train.checkpoint import described
from mochi_trainer.train.misfits import MisfitError, OtherTrainingError
from mochi_trainer.train.places import Place, next_to_try, places
from mochi_trainer.train.shards import (
    AVERAGE,
    WEIGHT,
    Layout,
    compare,
    shard_name,
)
from mochi_trainer.train.terms import NONE, Terms, compare_terms
from mochi_trainer.weights.contents import Contents, Located
from mochi_trainer.weights.diffusers_layout import Segment
from mochi_trainer.weights.filling import Kept, fill
from mochi_trainer.weights.stored import TYPES, WeightsError, header_of, required

log = logging.getLogger(__name__)

TRIES = 5
"""Checkpoints that are tried at most: one may be incomplete yet, and others may go while they are read."""


class Saved(NamedTuple):
    """A checkpoint whose weights were read."""

    step: int
    address: str


def load_newest(store: Store, tensors: Mapping[str, Tensor], terms: Terms = NONE) -> Saved:
    """Give `tensors`, by name of the parameter, the weights of the newest complete good checkpoint, in their own types.

    `store` is the run's folder, `terms` are what its weights must mean. Raises StorageError when there is none that can be used,
    InvalidInputError when the newest that could is of another training, and what the store raises; the tensors may have been
    changed then.
    """
    tried: set[Place] = set()
    problem = "there is none"
    while len(tried) < TRIES and (place := _next(store, tried)) is not None:
        try:
            return _loaded(store, place, tensors, terms)
        except OtherTrainingError as error:
            raise InvalidInputError(
                f"{store.address('checkpoints')} is of another training: {error}",
                action="name the mode, rank, targets, alpha and rsLora that it has",
            ) from error
        except (MissingObjectError, DamagedObjectError, MisfitError, WeightsError) as error:
            problem = str(error)
        log.warning("%s is not used, another is looked for: %s", store.address(place.prefix), problem)
        tried.add(place)
    raise StorageError(
        f"no checkpoint in {store.address('checkpoints')} can be used: {problem}",
        action="wait until the training has saved one",
    )


def _next(store: Store, tried: set[Place]) -> Place | None:
    return next_to_try(places(info.key for info in store.list("checkpoints/")), tried)


def _loaded(store: Store, place: Place, tensors: Mapping[str, Tensor], terms: Terms) -> Saved:
    manifest = read_manifest(store, place.prefix)
    position, _, layout = described(manifest.details, place)
    if not position.good:
        raise MisfitError("its loss was not finite")
    compare_terms(manifest.details, terms)
    compare(layout, {name: list(tensor.shape) for name, tensor in tensors.items()})
    kept = {name: Kept(tensor) for name, tensor in tensors.items()}
    fill(kept, _contents(store, manifest, layout), f"step {position.step}")
    return Saved(position.step, store.address(place.prefix))


def _contents(store: Store, manifest: Manifest, layout: Layout) -> Contents:
    """Where the rows of each weight, or of its average where there is one, lie: one after the other in the ranks' files."""
    kind = WEIGHT if layout.average_updates is None else AVERAGE
    names = [shard_name(index, layout.files) for index in range(layout.files)]
    headers = [(file, header_of(file)) for file in (required(store, manifest.key(name)) for name in names)]
    tensors: dict[str, Located] = {}
    segments: dict[str, list[Segment]] = {name: [] for name in layout.shapes}
    for file, header in headers:
        for name, parts in segments.items():
            listed = header.tensors.get(f"{kind}/{name}")
            if listed is None:
                continue
            if listed.dtype not in TYPES:
                raise MisfitError(f"{name} in {file.name} has type {listed.dtype}")
            place = f"{file.key}: {name}"
            tensors[place] = Located(file, listed)
            parts.append(Segment(place, 0, math.prod(listed.shape)))
    for name, parts in segments.items():
        if (found := sum(part.numbers for part in parts)) != (whole := math.prod(layout.shapes[name])):
            raise MisfitError(f"{name} has {found} numbers in the files, must have {whole}")
    return Contents(tensors, headers, segments)
