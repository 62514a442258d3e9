"""Rules that span fields, each written once with its two forms side by side: CEL and Python.

The CRD carries the CEL form, so the API server refuses a wrong object with the message. Whoever reads a spec without
an API server in front (the trainer by hand, tests) calls `violations`. A test feeds both the same objects.
"""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.rules.buckets import BUCKETS
from mochi_api.rules.clips import CLIPS, frames_that_fit
from mochi_api.rules.env import ENV
from mochi_api.rules.gpus import GPUS
from mochi_api.rules.naming import NAME_LIMIT, NAME_RULES, name_problem
from mochi_api.rules.places import PLACES
from mochi_api.rules.pods import PODS
from mochi_api.rules.rule import Rule
from mochi_api.rules.sampling import SAMPLING
from mochi_api.rules.training import MODES, TRAINING
from mochi_api.spec import FineTuneSpec

RULES: Sequence[Rule] = (*PLACES, *CLIPS, *BUCKETS, *MODES, *GPUS, *TRAINING, *ENV, *PODS, *SAMPLING)

IMMUTABLE = (
    "mode",
    "limits",
    "model",
    "dataset",
    "storage",
    "preprocessing",
    "training",
    "sampling",
    "workers",
)
"""Fields of the spec that cannot change; a new object is cheap, since the embeddings are shared."""


def violations(spec: FineTuneSpec, *, below: str = "") -> list[str]:
    """The messages of all rules that `spec` breaks, in the order of the rules; empty when it obeys them all.

    With `below` only those about a field below that path, such as `spec.preprocessing`.
    """
    asked = (rule for rule in RULES if rule.path.startswith(below))
    return [message for rule in asked if (message := rule.broken(spec)) is not None]


__all__ = [
    "IMMUTABLE",
    "NAME_LIMIT",
    "NAME_RULES",
    "RULES",
    "Rule",
    "frames_that_fit",
    "name_problem",
    "violations",
]
