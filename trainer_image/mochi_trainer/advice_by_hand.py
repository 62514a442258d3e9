"""What to do about an error of a command by hand: there is no spec to apply again, no pod and no cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mochi_api.outcomes import ROWS, Reason

ACTIONS: Mapping[Reason, str] = {
    Reason.BUG: "report it with these lines: it is a defect of the trainer",
    Reason.INVALID_INPUT: "correct the value named in the message, and run the command again",
    Reason.STORAGE_ERROR: "check --endpoint, and that the store answers from here",
    Reason.OUT_OF_MEMORY: "use fewer frames, or a machine with more memory",
    Reason.DISK_FULL: "free some of the disk, or set TMPDIR to a folder on a larger one",
    Reason.PREEMPTED: "run the command again",
}
"""Where the table of reasons speaks of what a person at a command line has not."""

_AGAIN = re.compile(r"(?:;|,?(?: and)?) apply again(?: under a new name)?")
_BUCKETS = re.compile(
    r", or (?:a shorter size in|add a size of 1 frame to) preprocessing\.buckets(?: for the \d+ still images?)?"
)
_FIELD = re.compile(r"(?:preprocessing\.|\b(?=maxFailedItemsPercent|missingCaption\b))(\w+)")


def action(reason: Reason, given: str | None) -> str:
    """One sentence, of what an error says or of the table."""
    return _AGAIN.sub(", and run the command again", given or ACTIONS.get(reason, ROWS[reason].action))


def with_options(text: str) -> str:
    """A sentence about the preprocessing of a spec in the words of the command's options; sizes have none."""
    told = _BUCKETS.sub("", text).replace("dataset.source", "the folder's name")
    return _FIELD.sub(lambda field: option(field[1]), told)


def option(field: str) -> str:
    """`maxFailedItemsPercent` as `--max-failed-items-percent`."""
    return "--" + re.sub("(?<=[a-z])([A-Z])", r"-\1", field).lower().replace("_", "-")
