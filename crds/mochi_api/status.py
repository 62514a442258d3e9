"""The status of a `MochiFineTune`: what the operator writes; nobody's program should have to read more than this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mochi_api.base import UNSTORED, ApiModel

Phase = Literal[
    "Pending", "Preprocessing", "Starting", "Training", "Sampling", "Retrying", "Succeeded", "Failed"
]
PHASES: tuple[Phase, ...] = (
    "Pending", "Preprocessing", "Starting", "Training", "Sampling", "Retrying", "Succeeded", "Failed",
)  # fmt: skip
ConditionType = Literal[
    "Accepted", "Checked", "Preprocessed", "TrainingRunning", "TrainingHealthy", "CheckpointReady",
    "TopologyOptimal", "Sampled", "Succeeded", "Failed", "Reconciling", "Stalled",
]  # fmt: skip
CONDITION_TYPES: tuple[ConditionType, ...] = (
    "Accepted", "Checked", "Preprocessed", "TrainingRunning", "TrainingHealthy", "CheckpointReady",
    "TopologyOptimal", "Sampled", "Succeeded", "Failed", "Reconciling", "Stalled",
)  # fmt: skip
StageState = Literal["Pending", "Running", "Succeeded", "Failed"]
Timestamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Text = Annotated[str, Field(max_length=2048)]
Name = Annotated[str, Field(max_length=253)]


class Condition(ApiModel):
    """A `metav1.Condition`."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[
        str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    """Why, in one CamelCase word from the table of reasons."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why, for a person."""
    observed_generation: int = 0
    """Generation of the spec this was said of."""
    last_transition_time: Timestamp
    """When `status` last changed."""


class Resolved(ApiModel):
    """What was decided where the spec leaves a choice."""

    replicas: int
    """Training pods."""
    gpus_per_pod: int
    """GPUs of each training pod."""
    image: Annotated[str, Field(max_length=512)]
    """Trainer image of all pods of this run."""
    warmup_steps: int
    """Warm-up of the learning rate."""
    global_batch_size: int
    """Clips per optimizer step."""
    predicted_memory_gib: Annotated[str | None, Field(max_length=16, alias="predictedMemoryGiB")] = None
    """Memory in GiB that each GPU of the training needs at least, as it was predicted; with more, less is computed twice. Absent for a run without GPUs."""


class FailedItem(ApiModel):
    """A clip that could not be used."""

    clip: Annotated[str, Field(max_length=1024)]
    """The clip."""
    message: Annotated[str, Field(max_length=1024)]
    """Why."""
    reason: Annotated[str, Field(max_length=64, json_schema_extra=UNSTORED)] = ""
    """Why, in one word: one of the reasons of docs/reference/clips.md."""


class Attempt(ApiModel):
    """One attempt of a step."""

    number: int
    """From 1."""
    backend_name: Name
    """The object that ran it."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why it ended, from the table of reasons; empty while it runs."""
    message: Text = ""
    """Why it ended, for a person."""
    exit_code: int | None = None
    """Exit code of the first container that failed."""
    last_step: int = 0
    """Last step seen."""
    start_time: Timestamp | None = None
    """When it started."""
    running_time: Timestamp | None = None
    """When all its pods ran for the first time."""
    end_time: Timestamp | None = None
    """When it ended."""


class Trouble(ApiModel):
    """What keeps an attempt from going on, and since when."""

    kind: Annotated[str, Field(max_length=63)]
    """What it is, in one word; as long as it stays the same, the time counts on."""
    message: Text = ""
    """What it is, for a person."""
    since: Timestamp
    """When it was first seen."""
    announced: bool = False
    """Whether an Event has told it."""


class StageStatus(ApiModel):
    """How one stage stands."""

    name: Annotated[str, Field(max_length=32)]
    """check, trim, captions, videos, sample or preview."""
    state: StageState
    """Where it stands."""
    job_name: Name = ""
    """Its Job."""
    cache_key: Annotated[str, Field(max_length=64)] = ""
    """Key of its output in the cache."""
    cache_hit: bool = False
    """True when an earlier run had made the output already."""
    items_total: int = 0
    """Clips; while the stage works, different clips or captions."""
    items_done: int = 0
    """Clips that are done; while the stage works, those that have been made or were there, by whichever pod."""
    items_failed: int = 0
    """Clips that could not be used."""
    failures: Annotated[list[FailedItem], Field(max_length=8)] = Field(default_factory=list)
    """The first of them; the report has all."""
    message: Text = ""
    """What went wrong, if anything did; what it waits for is in `trouble`."""
    attempt: int = 0
    """Number of the newest attempt, from 1."""
    spent: int = 0
    """Failed attempts that count against `runPolicy.backoffLimit`."""
    next_attempt_time: Timestamp | None = None
    """When the next attempt starts, while waiting for it."""
    trouble: Trouble | None = None
    """What keeps it from going on."""
    attempts: Annotated[list[Attempt], Field(max_length=10)] = Field(default_factory=list)
    """Attempts, newest first."""
    start_time: Timestamp | None = None
    """When its Job started."""
    completion_time: Timestamp | None = None
    """When its Job ended."""


class BackendRef(ApiModel):
    """The object that runs the training."""

    kind: Annotated[str, Field(max_length=63)]
    """Its kind."""
    name: Name
    """Its name."""


class MetricValue(ApiModel):
    """One number of training, as a decimal string."""

    name: Annotated[str, Field(max_length=63)]
    """loss, gradNorm, stepSeconds, or heldOutLoss, that of the clips that are held out."""
    value: Annotated[str, Field(max_length=32)]
    """Its last value; `NaN` when it was not finite."""


class TrainingStatus(ApiModel):
    """How training stands."""

    backend_ref: BackendRef | None = None
    """The object that runs the current attempt."""
    attempt: int = 0
    """Number of the current attempt, from 1."""
    step: int = 0
    """Steps done."""
    total_steps: int = 0
    """Steps in all."""
    progress_percentage: int = 0
    """Steps done, in percent."""
    estimated_remaining_seconds: int | None = None
    """Time left at the present pace."""
    loss: Annotated[str, Field(max_length=32)] = ""
    """Last loss, for the printer column."""
    metrics: Annotated[list[MetricValue], Field(max_length=16)] = Field(default_factory=list)
    """Last values."""
    replicas_running: int = 0
    """Training pods that run."""
    last_step_time: Timestamp | None = None
    """When the last step was completed."""
    last_updated_time: Timestamp | None = None
    """When these numbers were read."""
    last_heartbeat_time: Timestamp | None = None
    """When rank 0 last gave a sign of life, as far as it was written down."""
    next_attempt_time: Timestamp | None = None
    """When the next attempt starts, while waiting for it."""
    spent: int = 0
    """Failed attempts that count against `runPolicy.backoffLimit`."""
    furthest_step: int = 0
    """Last step of the attempt that got furthest; one that gets further starts the count anew."""
    trouble: Trouble | None = None
    """What keeps the attempt from going on."""


class Checkpoint(ApiModel):
    """A complete checkpoint."""

    step: int
    """Step after which it was saved."""
    uri: Text
    """Where it lies."""
    time: Timestamp | None = None
    """When it was complete."""


class Checkpoints(ApiModel):
    """The saved states."""

    latest: Checkpoint | None = None
    """The newest complete one."""


class Best(ApiModel):
    """The checkpoint with the lowest loss of the clips that are held out; it is kept however old it is."""

    step: int
    """Step after which it was saved."""
    held_out_loss: Annotated[str, Field(max_length=32)]
    """That loss."""
    overfits_from_step: int | None = None
    """Step from which on that loss has only been higher: training has learnt its clips by heart since. Absent while it still falls."""


class Preview(ApiModel):
    """Sample videos from a checkpoint."""

    step: int
    """Step after which the checkpoint was saved."""
    uri: Text
    """Folder of the videos."""
    time: Timestamp | None = None
    """When they were made."""


class Previews(ApiModel):
    """Samples during the training."""

    step: int = Field(default=0, json_schema_extra=UNSTORED)
    """Step of the newest checkpoint when the last ones were begun."""
    asked: Annotated[str, Field(max_length=63, json_schema_extra=UNSTORED)] = ""
    """The last value of the annotation `mochi.finetune.dev/sample-now` that was honoured; each is once."""
    made: Annotated[list[Preview], Field(max_length=10, json_schema_extra=UNSTORED)] = Field(
        default_factory=list
    )
    """The last ones, newest first; the report has all."""


class Artifacts(ApiModel):
    """What was made and where."""

    lora_uri: Text = Field(default="", alias="loraURI")
    """The LoRA file (mode lora)."""
    weights_uri: Text = Field(default="", alias="weightsURI")
    """The tuned weights (mode full)."""
    sha256: Annotated[str, Field(max_length=64)] = ""
    """Of that file."""
    size_bytes: int = 0
    """Of that file."""
    sample_uris: Annotated[list[Text], Field(max_length=16)] = Field(default_factory=list, alias="sampleURIs")
    """Sample videos."""
    report_uri: Text = Field(default="", alias="reportURI")
    """The report."""
    run_uri: Text = Field(default="", alias="runURI")
    """Folder of everything that belongs to this run."""


class FineTuneStatus(ApiModel):
    """What the operator reports."""

    observed_generation: int = 0
    """Generation of the spec this status speaks of."""
    phase: Phase = "Pending"
    """One word for people; programs read the conditions."""
    message: Annotated[str, Field(max_length=256)] = ""
    """What it waits for, or why it failed, in a sentence; empty while all goes well."""
    result: Literal["", "Succeeded", "Failed"] = ""
    """How the run has ended; empty while it goes on."""
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """All conditions, from the first visit on."""
    resolved: Resolved | None = None
    """What was decided where the spec leaves a choice."""
    stages: Annotated[list[StageStatus], Field(max_length=8)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """The Jobs around the training."""
    training: TrainingStatus | None = None
    """How training stands."""
    checkpoints: Checkpoints | None = None
    """The saved states."""
    best: Best | None = None
    """The best of them, where clips are held out."""
    previews: Previews | None = None
    """Samples during the training, where any were asked for."""
    attempts: Annotated[list[Attempt], Field(max_length=10)] = Field(default_factory=list)
    """Attempts of the training, newest first."""
    artifacts: Artifacts | None = None
    """What was made and where."""
