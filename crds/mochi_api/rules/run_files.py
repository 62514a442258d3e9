"""The rules for a run file by hand, which no API server has seen."""

from __future__ import annotations

from mochi_api.rules import violations
from mochi_api.runfile import RunFile
from mochi_api.spec import FineTuneSpec, StorageSpec

ANYWHERE = StorageSpec(outputURI="s3://anywhere/")
"""A run file says where things lie in `locations`."""


def broken_rules(run: RunFile) -> list[str]:
    """What the API server would refuse in the preprocessing of `run`, by its fields; nothing limits a LoRA by hand to the guide."""
    spec = FineTuneSpec(
        mode=run.mode,
        limits="Memory",
        dataset=run.dataset,
        storage=ANYWHERE,
        preprocessing=run.preprocessing,
    )
    return [words.removeprefix("spec.") for words in violations(spec, below="spec.preprocessing")]
