"""Every way a run can end badly, one class for each line of `mochi_api.outcomes.TABLE` that the trainer can raise.

```
Exception
├── TrainerError                ends the process with the exit code of its reason
│   ├── InvalidInputError           a value, a file's content or a combination is wrong
│   ├── MissingObjectError          an input is not in the store
│   │   └── ArchivedObjectError         it is, but has to be restored before it can be read
│   ├── DatasetRejectedError        too many clips cannot be used; carries all of them
│   ├── AccessDeniedError           the store refuses these credentials
│   ├── StorageError                the store does not answer, or not as it should
│   │   └── NotAdmittedError            it answers, and turns away keys that have run out or a clock that is wrong
│   ├── OutOfMemoryError            GPU or host memory is too small
│   ├── NonFiniteLossError          the loss or the gradient stayed NaN or infinite
│   ├── CollectiveTimeoutError      another rank did not answer
│   ├── DeviceUnavailableError      the GPU is not there or has failed
│   ├── DiskFullError               the local disk is too small
│   ├── SupersededError             a newer attempt of the same training has begun
│   ├── PreemptedError              SIGTERM: somebody wants the node back
│   └── DefectError                 a defect of the trainer itself
└── ClipError                   ends the work on one clip only; the stage counts it
```
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import ClassVar

from mochi_api.outcomes import ROWS, Item, Reason
from mochi_trainer.clip_error import ClipError as ClipError


class TrainerError(Exception):
    """Base of all errors that end the process; `str(error)` is the message the user reads."""

    reason: ClassVar[Reason] = Reason.BUG

    def __init__(self, message: str, *, step: int | None = None, action: str | None = None) -> None:
        super().__init__(message)
        self.step = step
        """Training step at which it happened, if it happened in training."""
        self.action = action
        """What the user does about this very case; None: what the table says of the reason."""

    @property
    def exit_code(self) -> int:
        """The code of this error's line in the table."""
        code = ROWS[self.reason].exit_code
        return 1 if code is None else code


class InvalidInputError(TrainerError):
    """A value, a file's content or a combination of them cannot be used."""

    reason = Reason.INVALID_INPUT


class MissingObjectError(TrainerError):
    """An input is not in the store; the message has its full address."""

    reason = Reason.MISSING_OBJECT


class ArchivedObjectError(MissingObjectError):
    """An input is in an archive (Glacier and the like), which gives it out only after it was restored."""


class DatasetRejectedError(TrainerError):
    """Too few usable clips; `failures` has every clip that could not be used."""

    reason = Reason.DATASET_REJECTED

    def __init__(
        self, message: str, *, total: int = 0, failures: Sequence[Item] = (), action: str | None = None
    ) -> None:
        super().__init__(message, action=action)
        self.total = total
        self.failures = tuple(failures)


class AccessDeniedError(TrainerError):
    """The store refuses the credentials, or there are none."""

    reason = Reason.ACCESS_DENIED


class StorageError(TrainerError):
    """The store does not answer, or what it sends is not what was stored."""

    reason = Reason.STORAGE_ERROR


class NotAdmittedError(StorageError):
    """The store answers and turns everybody away who comes so: the keys have run out, or the clock is wrong."""


REFUSALS = (AccessDeniedError, NotAdmittedError)
"""What is over only once somebody renews the keys, gives the permission back or sets the clock."""


class OutOfMemoryError(TrainerError):
    """The memory of the GPU or of the pod is too small."""

    reason = Reason.OUT_OF_MEMORY


class NonFiniteLossError(TrainerError):
    """The loss or the gradient stayed NaN or infinite."""

    reason = Reason.NON_FINITE_LOSS


class CollectiveTimeoutError(TrainerError):
    """Another rank did not answer in time."""

    reason = Reason.COLLECTIVE_TIMEOUT


class DeviceUnavailableError(TrainerError):
    """The GPU is not there, or the driver reports a failure."""

    reason = Reason.DEVICE_UNAVAILABLE


class DiskFullError(TrainerError):
    """The local disk is too small."""

    reason = Reason.DISK_FULL


class SupersededError(TrainerError):
    """A newer attempt of the same training has begun; what it writes is left alone."""

    reason = Reason.SUPERSEDED


class PreemptedError(TrainerError):
    """SIGTERM came; what was done is saved as far as the stage can."""

    reason = Reason.PREEMPTED


class DefectError(TrainerError):
    """Something that should not happen whatever the input: a defect of the trainer."""

    reason = Reason.BUG


def disk_full(error: OSError) -> bool:
    """Whether `error` says that the disk, or the quota on it, is used up."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
