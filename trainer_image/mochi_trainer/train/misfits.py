"""Why a stored state is not for this training; apart from what reads one, since stages without torch compare too."""

from __future__ import annotations


class MisfitError(ValueError):
    """A stored state does not fit the model; the message names the tensor."""


class OtherTrainingError(MisfitError):
    """The stored state is of other tensors (another mode, rank or targets, or another model), or of tensors that mean something else."""
