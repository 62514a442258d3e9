"""Where the weights of a run come from, and what a cache key says about them."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.runfile import RunFile
from mochi_trainer.weights.addresses import Source, open_source
from mochi_trainer.weights.finding import Part
from mochi_trainer.weights.loading import check_parts, identity


def model_source(run: RunFile, parts: Sequence[Part]) -> Source | None:
    """The `source` argument of `weights.load_*` for `parts`; None for weights in the package. No weight is read yet.

    Raises MissingObjectError when a part is not there, InvalidInputError for an address that is none.
    """
    address = run.locations.model
    if address is None:
        return None
    source = open_source(address, run.s3)
    check_parts(source, parts)
    return source


def model_identity(run: RunFile, parts: Sequence[Part]) -> str:
    """What a cache key says about `parts`: preset and a hash of their content, for S3 of sizes and ETags.

    Raises MissingObjectError when a part is not there.
    """
    return identity(run.model.preset, model_source(run, parts), parts)
