"""Names of the Prometheus metrics, so that the trainer, the operator, the rules and the docs cannot disagree."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """One metric: its name as exposed (counters end in `_total`), its type, its labels and what it tells."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


TRAIN_STEP = Metric("mochi_train_step", "gauge", "steps completed")
TRAIN_TOTAL_STEPS = Metric("mochi_train_total_steps", "gauge", "steps of the whole run")
TRAIN_LOSS = Metric("mochi_train_loss", "gauge", "loss of the last step; NaN when it was not finite")
TRAIN_LOSS_EMA = Metric("mochi_train_loss_ema", "gauge", "exponential mean of the loss")
TRAIN_GRAD_NORM = Metric("mochi_train_grad_norm", "gauge", "norm of the gradient before clipping")
TRAIN_LEARNING_RATE = Metric("mochi_train_learning_rate", "gauge", "learning rate of the last step")
TRAIN_NONFINITE = Metric(
    "mochi_train_nonfinite_total", "counter", "losses or gradients that were not finite", ("what",)
)
TRAIN_SKIPPED = Metric("mochi_train_skipped_steps_total", "counter", "steps that changed no weight")
TRAIN_SIGMA_LOSS = Metric(
    "mochi_train_loss_by_sigma",
    "gauge",
    "exponential mean of the loss of clips with this share of noise",
    ("sigma",),
)
TRAIN_HELD_OUT_LOSS = Metric(
    "mochi_train_held_out_loss", "gauge", "last loss of the clips that are held out; NaN when none are"
)
TRAIN_BEST_STEP = Metric(
    "mochi_train_best_step",
    "gauge",
    "step of the checkpoint with the lowest loss of the clips that are held out; NaN without",
)
TRAIN_SAMPLES_PER_SECOND = Metric(
    "mochi_train_samples_per_second", "gauge", "clips of the last step over its duration, all ranks together"
)
TRAIN_MFU = Metric(
    "mochi_train_mfu_ratio",
    "gauge",
    "operations the model asks for in a step over what this rank's GPU could do in its duration; NaN where the GPU is not known",
)
TRAIN_S3_REQUESTS = Metric(
    "mochi_train_s3_requests_total",
    "counter",
    "requests to S3; result is ok, refused (4xx) or failed (5xx, or no answer)",
    ("op", "result"),
)
TRAIN_STEP_SECONDS = Metric("mochi_train_step_duration_seconds", "histogram", "duration of a step")
TRAIN_DATA_WAIT = Metric(
    "mochi_train_data_wait_seconds",
    "histogram",
    "of a step's duration, for which this rank waited for its clips",
)
TRAIN_LAST_STEP = Metric(
    "mochi_train_last_step_timestamp_seconds", "gauge", "Unix time of the last completed step"
)
TRAIN_LAST_CHECKPOINT = Metric(
    "mochi_train_last_checkpoint_timestamp_seconds", "gauge", "Unix time of the last complete checkpoint"
)
TRAIN_LAST_CHECKPOINT_STEP = Metric(
    "mochi_train_last_checkpoint_step", "gauge", "step of the last complete checkpoint"
)
TRAIN_CHECKPOINT_SECONDS = Metric(
    "mochi_train_checkpoint_duration_seconds",
    "gauge",
    "time from the copy of the state to the complete checkpoint, of the last one; training goes on meanwhile",
)
TRAIN_CHECKPOINT_FAILURES = Metric(
    "mochi_train_checkpoint_failures_total",
    "counter",
    "times that the store did not answer, or refused, while a checkpoint was written",
)
TRAIN_CHECKPOINTS_DROPPED = Metric(
    "mochi_train_checkpoints_dropped_total",
    "counter",
    "checkpoints that a newer one replaced before the store answered again",
)
TRAIN_CHECKPOINT_DELAY = Metric(
    "mochi_train_checkpoint_delay_seconds",
    "gauge",
    "for how long the store has not answered, or refused, and no checkpoint was complete; 0 while all is well",
)
TRAIN_RESTARTS = Metric(
    "mochi_train_restarts_from_checkpoint_total", "counter", "1 when this attempt went on from a checkpoint"
)
TRAIN_OOMS = Metric("mochi_train_cuda_ooms_total", "counter", "times the GPU's memory did not suffice")
TRAIN_ALLOC_RETRIES = Metric(
    "mochi_train_cuda_alloc_retries_total",
    "counter",
    "times memory of the GPU was only found after its cache was emptied",
)
TRAIN_MAX_RESERVED = Metric(
    "mochi_train_cuda_max_reserved_bytes", "gauge", "most memory of the GPU that was reserved at a time"
)
TRAINER_METRICS = (
    TRAIN_STEP, TRAIN_TOTAL_STEPS, TRAIN_LOSS, TRAIN_LOSS_EMA, TRAIN_GRAD_NORM, TRAIN_LEARNING_RATE, TRAIN_NONFINITE,
    TRAIN_SKIPPED, TRAIN_SIGMA_LOSS, TRAIN_HELD_OUT_LOSS, TRAIN_BEST_STEP, TRAIN_SAMPLES_PER_SECOND, TRAIN_MFU, TRAIN_S3_REQUESTS,
    TRAIN_STEP_SECONDS, TRAIN_DATA_WAIT, TRAIN_LAST_STEP, TRAIN_LAST_CHECKPOINT, TRAIN_LAST_CHECKPOINT_STEP,
    TRAIN_CHECKPOINT_SECONDS, TRAIN_CHECKPOINT_FAILURES, TRAIN_CHECKPOINTS_DROPPED, TRAIN_CHECKPOINT_DELAY, TRAIN_RESTARTS, TRAIN_OOMS, TRAIN_ALLOC_RETRIES, TRAIN_MAX_RESERVED,
)  # fmt: skip

_RUN = ("namespace", "finetune")
OPERATOR_RECONCILES = Metric(
    "mochi_operator_reconcile_total", "counter", "reconciliations by result", ("result",)
)
OPERATOR_RECONCILE_ERRORS = Metric(
    "mochi_operator_reconcile_errors_total",
    "counter",
    "reconciliations that failed: api (the API server), or defect",
    ("kind",),
)
OPERATOR_RECONCILE_SECONDS = Metric(
    "mochi_operator_reconcile_duration_seconds", "histogram", "time of a reconciliation"
)
OPERATOR_QUEUE_DEPTH = Metric("mochi_operator_queue_depth", "gauge", "keys that wait for a reconciliation")
OPERATOR_LAST_EVENT = Metric(
    "mochi_operator_watch_last_event_timestamp_seconds",
    "gauge",
    "Unix time of the last event of a watch, by what it watches",
    ("resource",),
)
OPERATOR_BUILD_INFO = Metric(
    "mochi_operator_build_info", "gauge", "always 1; the version is a label", ("version",)
)
FINETUNE_INFO = Metric(
    "mochi_finetune_info", "gauge", "always 1 for each MochiFineTune", (*_RUN, "mode", "uid")
)
FINETUNE_PHASE = Metric(
    "mochi_finetune_phase", "gauge", "1 for the phase a MochiFineTune is in", (*_RUN, "phase")
)
FINETUNE_ATTEMPTS = Metric("mochi_finetune_attempts_total", "counter", "training attempts started", _RUN)
FINETUNE_GPU_SECONDS = Metric(
    "mochi_finetune_gpu_seconds_total",
    "counter",
    "GPUs of the training times the seconds of its attempts, from when all pods ran; of the newest ten attempts",
    _RUN,
)
FINETUNE_FAILED_ITEMS = Metric(
    "mochi_finetune_stage_failed_items", "gauge", "clips a stage could not use", (*_RUN, "stage")
)
FINETUNE_CONDITION = Metric(
    "mochi_finetune_condition", "gauge", "1 for the status that a condition has", (*_RUN, "type", "status")
)
FINETUNE_STAGE_SECONDS = Metric(
    "mochi_finetune_stage_seconds",
    "gauge",
    "time from the start of a stage's last attempt to its end",
    (*_RUN, "stage"),
)
FINETUNE_START = Metric(
    "mochi_finetune_start_timestamp_seconds",
    "gauge",
    "Unix time at which the MochiFineTune was created",
    _RUN,
)
OPERATOR_METRICS = (
    OPERATOR_RECONCILES, OPERATOR_RECONCILE_SECONDS, OPERATOR_QUEUE_DEPTH, OPERATOR_LAST_EVENT, OPERATOR_BUILD_INFO,
    FINETUNE_INFO, FINETUNE_PHASE, FINETUNE_ATTEMPTS, FINETUNE_GPU_SECONDS, FINETUNE_FAILED_ITEMS,
    FINETUNE_CONDITION, FINETUNE_STAGE_SECONDS, FINETUNE_START, OPERATOR_RECONCILE_ERRORS,
)  # fmt: skip
