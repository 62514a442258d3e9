"""The one table of how a run can end: exit code, reason, whether a new attempt may help, and what the user does.

The trainer exits with `exit_code` and writes `Outcome` as one JSON line to the termination log; the operator reads
that line and the code, never the log text. Reasons without an exit code are found by the operator itself.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mochi_api.base import ApiModel
from mochi_api.clips import ClipReason

TERMINATION_LOG = "/dev/termination-log"
TERMINATION_LOG_BYTES = 4096
"""Kubernetes keeps at most this much of a container's termination message."""


class Reason(StrEnum):
    """Why a stage, an attempt or a run ended; CamelCase as Kubernetes conditions want it."""

    COMPLETED = "Completed"
    INVALID_INPUT = "InvalidInput"
    MISSING_OBJECT = "MissingObject"
    DATASET_REJECTED = "DatasetRejected"
    ACCESS_DENIED = "AccessDenied"
    STORAGE_ERROR = "StorageError"
    OUT_OF_MEMORY = "OutOfMemory"
    NON_FINITE_LOSS = "NonFiniteLoss"
    COLLECTIVE_TIMEOUT = "CollectiveTimeout"
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    DISK_FULL = "DiskFull"
    PREEMPTED = "Preempted"
    BUG = "Bug"
    NODE_LOST = "NodeLost"
    STALLED = "Stalled"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BACKEND_DELETED = "BackendDeleted"
    BACKEND_UNAVAILABLE = "BackendUnavailable"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    POD_REFUSED = "PodRefused"
    ARTIFACTS_MISSING = "ArtifactsMissing"
    NAME_CONFLICT = "NameConflict"
    SUPERSEDED = "Superseded"
    INVALID_SPEC = "InvalidSpec"
    UNKNOWN = "Unknown"


class Row(NamedTuple):
    """One line of the table."""

    reason: Reason
    exit_code: int | None
    """The trainer's exit code, or None when only the operator can see it."""
    retryable: bool
    """Whether a new attempt without any change may succeed."""
    action: str
    """What the user does when it ends the run, one sentence; an `Outcome` may know better."""


_R = Reason
TABLE: tuple[Row, ...] = (
    Row(_R.COMPLETED, 0, False, "nothing to do"),
    Row(_R.BUG, 1, False, "report it with the pod's log: it is a defect of the trainer"),
    Row(
        _R.INVALID_INPUT, 2, False, "correct the value named in the message and apply again under a new name"
    ),
    Row(
        _R.MISSING_OBJECT,
        3,
        False,
        "create or upload the object named in the message, or correct its address",
    ),
    Row(_R.DATASET_REJECTED, 4, False, "mend the clips named in the message and in the report"),
    Row(_R.ACCESS_DENIED, 5, False, "correct the S3 credentials or the permissions of the bucket"),
    Row(
        _R.STORAGE_ERROR,
        6,
        True,
        "check storage.s3.endpoint, and that the store answers from inside the cluster",
    ),
    Row(_R.OUT_OF_MEMORY, 7, False, "use fewer frames, a lower rank or more memory for the pod"),
    Row(_R.NON_FINITE_LOSS, 8, False, "lower the learning rate, and look at the clips named in the report"),
    Row(_R.COLLECTIVE_TIMEOUT, 9, True, "check the network between the pods"),
    Row(_R.DEVICE_UNAVAILABLE, 10, True, "check the GPU driver and the device plugin of the node"),
    Row(_R.DISK_FULL, 11, False, "give the pod more ephemeral storage"),
    Row(_R.SUPERSEDED, 12, True, "nothing to do: a newer attempt has taken over"),
    Row(_R.PREEMPTED, 143, True, "nothing to do: the work goes on from what is saved"),
    Row(_R.NODE_LOST, None, True, "nothing to do: the work goes on from what is saved, on another node"),
    Row(
        _R.STALLED,
        None,
        True,
        "look at the pod's log: it hangs; raise runPolicy.stallTimeoutSeconds if it is only slow",
    ),
    Row(_R.DEADLINE_EXCEEDED, None, False, "raise the deadline named in the message"),
    Row(_R.BACKEND_DELETED, None, True, "find out who deletes the job named in the message"),
    Row(_R.BACKEND_UNAVAILABLE, None, True, "install, or start, the controller named in the message"),
    Row(_R.IMAGE_UNAVAILABLE, None, False, "correct workers.image or the pull secret"),
    Row(_R.POD_REFUSED, None, False, "correct what the message names: the cluster refuses to create the pod"),
    Row(
        _R.ARTIFACTS_MISSING,
        None,
        True,
        "report it with the pod's log: the pod ended well but left no result",
    ),
    Row(_R.NAME_CONFLICT, None, False, "delete the foreign object named in the message, or use another name"),
    Row(_R.INVALID_SPEC, None, False, "correct the field named in the message and apply again"),
    Row(_R.UNKNOWN, None, True, "look at the pod's log"),
)

DISRUPTIONS = frozenset({Reason.PREEMPTED, Reason.NODE_LOST})
"""Ends that are nobody's fault but the cluster's: they do not count against `runPolicy.backoffLimit`."""

ROWS: dict[Reason, Row] = {row.reason: row for row in TABLE}
_BY_CODE: dict[int, Row] = {row.exit_code: row for row in TABLE if row.exit_code is not None}


def row_of_exit_code(code: int) -> Row:
    """The table's line for a container's exit code; codes outside the table (137 for example) are `Unknown`."""
    return _BY_CODE.get(code, ROWS[Reason.UNKNOWN])


def final_exit_codes() -> list[int]:
    """Exit codes for which no further try can help, ascending; a Job's `podFailurePolicy` fails on them at once."""
    return sorted(row.exit_code for row in TABLE if row.exit_code and not row.retryable)


def retryable_reasons() -> tuple[Reason, ...]:
    """Reasons after which a new attempt may help, in the order of the table."""
    return tuple(row.reason for row in TABLE if row.retryable)


def _known(value: object) -> object:
    """A reason that a newer version made is none of ours; the rest of its outcome is still worth reading."""
    return Reason.UNKNOWN if isinstance(value, str) and value not in set(Reason) else value


class Item(ApiModel):
    """One clip that could not be used, and why."""

    clip: str = Field(max_length=1024)
    """Key of the clip relative to the dataset, with `#00` and so on behind it where it is a segment of one."""
    message: str = Field(max_length=1024)
    reason: str = Field(default="", max_length=64)
    """A `ClipReason`; empty when an earlier version wrote it.

    On the wire it stands before the message, since an operator of an earlier version refuses a field that it does not
    know, and so would lose the whole outcome.
    """

    @model_validator(mode="before")
    @classmethod
    def _read(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or raw.get("reason"):
            return raw
        reason, colon, message = str(raw.get("message", "")).partition(": ")
        if not colon or reason not in set(ClipReason):
            return raw
        return {**raw, "reason": reason, "message": message}

    @model_serializer(mode="wrap")
    def _write(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        wire: dict[str, Any] = plain(self)
        reason = wire.pop("reason", "")
        return {**wire, "message": f"{reason}: {self.message}"[:1024]} if reason else wire

    @classmethod
    def of(cls, clip: str, message: str, reason: ClipReason) -> Item:
        """With the message cut to its limit."""
        return cls(clip=clip[:1024], message=message[:1024], reason=reason)


class StageResult(ApiModel):
    """What a preprocessing stage hands on: counts, where its output lies, and the clips it could not use."""

    cache_key: str = Field(default="", max_length=64)
    cache_hit: bool = False
    items_total: int = 0
    items_done: int = 0
    items_failed: int = 0
    failures: list[Item] = Field(default_factory=list, max_length=8)
    """The first failures; the report has all."""


class TrainingResult(ApiModel):
    """What training leaves behind; sizes in bytes."""

    artifact_uri: str = Field(default="", alias="artifactURI", max_length=2048)
    """The LoRA file, or the tuned weights of a full run."""
    sha256: str = Field(default="", max_length=64)
    size_bytes: int = 0
    final_step: int = 0
    final_loss: float | None = None
    checkpoint_uri: str = Field(default="", alias="checkpointURI", max_length=2048)
    best_step: int | None = None
    """Step of the checkpoint with the lowest loss of the clips that are held out."""
    best_held_out_loss: float | None = None
    overfits_from_step: int | None = None


class SampleResult(ApiModel):
    """What the sampling job leaves behind."""

    sample_uris: list[str] = Field(default_factory=list, alias="sampleURIs", max_length=16)
    report_uri: str = Field(default="", alias="reportURI", max_length=2048)
    step: int | None = None
    """Of the checkpoint that they were made from, during the training; None: of its result."""


class CheckResult(ApiModel):
    """What the first step found out before anything is paid for."""

    clips: int = 0
    """Clips of the dataset that have what they need."""
    checked: list[Annotated[str, Field(max_length=256)]] = Field(default_factory=list, max_length=16)
    """What was looked at and found good, in words."""
    warnings: list[Annotated[str, Field(max_length=256)]] = Field(default_factory=list, max_length=8)
    """What may go wrong later."""

    def shorter(self) -> CheckResult:
        """As this with a line less: of what is good before what may go wrong."""
        if self.checked:
            return self.model_copy(update={"checked": self.checked[:-1]})
        return self.model_copy(update={"warnings": self.warnings[:-1]})


class Outcome(ApiModel):
    """The JSON line in a container's termination log."""

    reason: Annotated[Reason, BeforeValidator(_known)]
    message: str = ""
    action: Annotated[str, Field(max_length=512)] | None = None
    """What the user does about this very case, where the table's sentence does not fit; None: the table's."""
    report_uri: Annotated[str, Field(max_length=2048)] | None = Field(default=None, alias="reportURI")
    """The report of a failed run, where one could be written."""
    rank: int = 0
    step: int | None = None
    stage_result: StageResult | None = None
    training_result: TrainingResult | None = None
    sample_result: SampleResult | None = None
    check_result: CheckResult | None = None

    def to_line(self) -> str:
        """This outcome as one line of at most `TERMINATION_LOG_BYTES` bytes: long texts are shortened, never the JSON.

        Raises ValueError only when the fixed part alone is longer than the limit, which bounded fields exclude.
        """
        line = self.model_dump_json(by_alias=True, exclude_none=True)
        outcome = self
        while len(line.encode()) > TERMINATION_LOG_BYTES:
            outcome = outcome._shorter()
            line = outcome.model_dump_json(by_alias=True, exclude_none=True)
        return line

    def _shorter(self) -> Outcome:
        if self.stage_result is not None and self.stage_result.failures:
            fewer = self.stage_result.model_copy(update={"failures": self.stage_result.failures[:-1]})
            return self.model_copy(update={"stage_result": fewer})
        if self.sample_result is not None and self.sample_result.sample_uris:
            kept = self.sample_result.sample_uris[:-1]
            return self.model_copy(
                update={"sample_result": self.sample_result.model_copy(update={"sample_uris": kept})}
            )
        if self.check_result is not None and (self.check_result.checked or self.check_result.warnings):
            return self.model_copy(update={"check_result": self.check_result.shorter()})
        if len(self.message) <= 1:
            raise ValueError(f"an outcome must fit into {TERMINATION_LOG_BYTES} bytes")
        return self.model_copy(update={"message": self.message[: len(self.message) // 2] + "…"})
