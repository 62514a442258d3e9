"""The spec of a `MochiFineTune`: what the user writes. CRD, validation and reference docs come from these types.

Defaults are the guide's values. A rule that spans fields is in `mochi_api.rules`, once, in both languages (CEL for the
API server, Python for everyone else).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from mochi_api.base import UNSTORED, ApiModel, Bounds, DecimalString
from mochi_api.fields import (
    DataKey,
    DnsName,
    Endpoint,
    Folder,
    OptionalDnsName,
    OptionalLoraUri,
    OptionalUri,
    Region,
    Uri,
)
from mochi_api.pods import RunPolicySpec, WorkersSpec

Mode = Literal["lora", "full"]
Preset = Literal["mochi-1", "nano"]
Limits = Literal["Guide", "Memory"]
Target = Literal[
    "query",
    "key",
    "value",
    "output",
    "mlp_in",
    "mlp_out",
    "text_query",
    "text_key",
    "text_value",
    "text_output",
    "text_mlp_in",
    "text_mlp_out",
]


class S3Source(ApiModel):
    """A prefix in an S3 bucket."""

    uri: Uri
    """Address of the prefix, such as `s3://datasets/dissolve/`."""


class PvcSource(ApiModel):
    """A folder of a PersistentVolumeClaim in the same namespace, mounted read-only."""

    claim_name: DnsName
    """Name of the claim."""
    path: Folder = "/"
    """Folder inside the volume."""


class Source(ApiModel):
    """Where files come from: exactly one of the fields is set."""

    s3: S3Source | None = None
    """A prefix in an S3 bucket."""
    pvc: PvcSource | None = None
    """A folder of a PersistentVolumeClaim."""


class ModelSpec(ApiModel):
    """The base model."""

    preset: Preset = "mochi-1"
    """`mochi-1` is the published 10 B model; `nano` has the same architecture in a few MB and runs on a CPU."""
    source: Source | None = None
    """Folder with `dit.safetensors`, `encoder.safetensors`, `decoder.safetensors` and `t5/`, or with the files of Diffusers. Required for `mochi-1`; `nano` brings its own weights."""


class DatasetSpec(ApiModel):
    """The clips: MP4, MOV or M4V files, each with its caption in a `.txt` file of the same name beside it."""

    source: Source
    """Where the clips lie."""
    max_clips: int = Field(default=0, ge=0, le=1_000_000)
    """Use only the first clips in the order of their names; 0 takes all."""


class CaBundle(ApiModel):
    """Certificates of authorities in PEM, in a ConfigMap or in a Secret of the same namespace: exactly one is named."""

    config_map_name: OptionalDnsName = Field(default="", json_schema_extra=UNSTORED)
    """Name of the ConfigMap."""
    secret_name: OptionalDnsName = Field(default="", json_schema_extra=UNSTORED)
    """Name of the Secret."""
    key: DataKey = Field(default="ca.crt", json_schema_extra=UNSTORED)
    """Key that holds the certificates, one or several."""


class S3Spec(ApiModel):
    """How the pods reach S3."""

    endpoint: Endpoint = ""
    """Address of an S3 server that is not AWS, such as `https://minio.example:9000`."""
    region: Region = "us-east-1"
    """Region of the buckets."""
    path_style: bool = False
    """Put the bucket's name into the path instead of the host name; most servers other than AWS need it."""
    credentials_secret_name: OptionalDnsName = ""
    """Secret with the keys `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (and `AWS_SESSION_TOKEN`, if any). Empty: the pod's own identity (IRSA, workload identity). New keys in the Secret reach pods that run."""
    ca_bundle: CaBundle | None = None
    """Who has signed the certificate of an endpoint with `https://`, when it is no public authority; they are trusted besides the public ones. When not set, what the chart's `caBundle` names."""


class StorageSpec(ApiModel):
    """Where results go."""

    output_uri: Uri = Field(alias="outputURI")
    """Prefix for checkpoints, samples, artifacts, the report, and the cache of embeddings; not in the dataset's."""
    cache_uri: OptionalUri = Field(default="", alias="cacheURI")
    """Prefix for the cache of embeddings, to share it between runs with different outputs, not in the dataset's; empty: `outputURI`."""
    s3: S3Spec = Field(default_factory=S3Spec)
    """How the pods reach S3."""


class TrimSpec(ApiModel):
    """The stage that cuts and crops the clips."""

    shards: int = Field(default=1, ge=1, le=64, json_schema_extra=UNSTORED)
    """Pods that share the clips. Each begins with its own share and then takes what no other has begun; the cut clips are the same with any number."""


class CaptionsSpec(ApiModel):
    """The stage that turns captions into T5 features."""

    gpus: int | None = Field(default=None, ge=0, le=1)
    """GPUs of each pod; when not set 1 for `mochi-1` and 0 for `nano`."""
    shards: int = Field(default=1, ge=1, le=64, json_schema_extra=UNSTORED)
    """Pods that share the captions, each with `gpus` GPUs. Each loads T5, so that more than one is worth it from thousands of captions on."""


class VideosSpec(ApiModel):
    """The stage that turns clips into latents."""

    gpus: int | None = Field(default=None, ge=0, le=1)
    """GPUs of each pod; when not set 1 for `mochi-1` and 0 for `nano`."""
    shards: int = Field(default=1, ge=1, le=64, json_schema_extra=UNSTORED)
    """Pods that share the clips, each with `gpus` GPUs. The first also makes the reconstructions."""
    reconstruct_every: int = Field(default=10, ge=0, le=1_000_000)
    """Every n-th clip is decoded again and scored (PSNR and SSIM in the report), so that one can check the embeddings; 0: never."""


class SegmentsSpec(ApiModel):
    """Which parts of a clip that is longer than what is kept become training clips, each with the clip's caption."""

    select: Literal["First", "Even", "Cuts"] = Field(default="First", json_schema_extra=UNSTORED)
    """`First` takes one part, from `startSeconds` on. `Even` spreads several evenly from there to the end, without overlap. `Cuts` looks for the changes of shot and takes parts that lie inside a shot, never across a change. With `buckets` all parts of a clip have the one size that is chosen for the whole clip."""
    max_per_clip: int | None = Field(default=None, ge=1, le=64)
    """Parts taken of each clip at most; when not set 1 with `First`, else 4."""


class BucketSpec(ApiModel):
    """A size of training clips."""

    frames: int = Field(ge=1, le=163)
    """Frames of each clip, as `preprocessing.frames`; or 1 for still images."""
    width: int = Field(ge=32, le=848, multiple_of=16)
    """Width in pixels."""
    height: int = Field(ge=32, le=848, multiple_of=16)
    """Height in pixels."""


class PreprocessingSpec(ApiModel):
    """How clips become training data: trim and crop, embed captions, embed videos."""

    frames: int = Field(default=37, ge=7, le=163)
    """Frames of each clip, counted from its start; 1 more than a multiple of 6. At most 85 for LoRA (163 with `limits: Memory`), 163 for full. The length kept is frames / fps seconds."""
    width: int = Field(default=848, ge=32, le=848, multiple_of=16)
    """Width of the training video in pixels."""
    height: int = Field(default=480, ge=32, le=848, multiple_of=16)
    """Height of the training video in pixels."""
    buckets: list[BucketSpec] = Field(default_factory=list, max_length=16, json_schema_extra=UNSTORED)
    """Further sizes of training clips, besides `frames` x `width` x `height`. Each clip gets the size that loses least of it: of those that it can fill the nearest in shape, then the most frames, then the most pixels without enlarging. With one of 1 frame still images (PNG, JPEG, WebP), each with its caption in a `.txt` file beside it, are trained on too, and only they take such a size. Samples have `frames` x `width` x `height`."""
    fps: int = Field(default=30, ge=1, le=60)
    """Frames per second that clips are brought to."""
    duration_seconds: Annotated[DecimalString, Bounds(more_than=0, at_most=60)] | None = None
    """Seconds kept by the trim stage, at least frames / fps; when not set just frames / fps. A longer value lets a later run with more frames reuse the trimmed clips."""
    start_seconds: Annotated[DecimalString, Bounds(at_least=0, at_most=86_400)] = Field(
        default=Decimal("0"), json_schema_extra=UNSTORED
    )
    """Seconds into each clip at which the part begins that is kept. A clip that has not enough frames after it is a bad clip."""
    crop_x: Annotated[DecimalString, Bounds(at_least=0, at_most=1)] = Field(
        default=Decimal("0.5"), json_schema_extra=UNSTORED
    )
    """Where a clip that is too wide is cut: 0 keeps its left edge, 1 its right edge, 0.5 the middle."""
    crop_y: Annotated[DecimalString, Bounds(at_least=0, at_most=1)] = Field(
        default=Decimal("0.5"), json_schema_extra=UNSTORED
    )
    """Where a clip that is too high is cut: 0 keeps its upper edge, 1 its lower edge, 0.5 the middle."""
    segments: SegmentsSpec | None = None
    """Several training clips of each long clip. When not set, one."""
    missing_caption: Literal["Fail", "Empty", "Skip"] = "Fail"
    """What happens when a clip has no caption, or one without words: `Fail` ends the run, `Empty` uses the empty prompt, `Skip` leaves the clip out."""
    max_failed_items_percent: int = Field(default=10, ge=0, le=100)
    """How many bad clips are tolerated, in percent of all clips; each is reported with its reason."""
    cache_policy: Literal["Reuse", "Refresh"] = "Reuse"
    """`Reuse` takes embeddings that an earlier run made from the same clips and settings; `Refresh` makes them anew."""
    trim: TrimSpec = Field(default_factory=TrimSpec, json_schema_extra=UNSTORED)
    """The trim stage."""
    captions: CaptionsSpec = Field(default_factory=CaptionsSpec)
    """The caption stage."""
    videos: VideosSpec = Field(default_factory=VideosSpec)
    """The video stage."""


BaseWeights = Literal["BFloat16", "Float8", "Int8"]


class LoraSpec(ApiModel):
    """The low-rank adapter."""

    rank: int = Field(default=16, ge=1, le=256)
    """Width of the two adapter matrices."""
    alpha: int = Field(default=16, ge=1, le=1024)
    """The adapter's output is scaled by alpha / rank, or by alpha / sqrt(rank) with `rsLora`."""
    rs_lora: bool = False
    """Rank-stabilised scale, alpha / sqrt(rank), which keeps the effect of one learning rate alike over ranks."""
    dropout: Annotated[DecimalString, Bounds(at_least=0, less_than=1)] = Decimal("0")
    """Share of the adapter's input that is dropped while training."""
    targets: list[Target] = Field(default=["query", "value"], min_length=1, max_length=12)
    """Layers that get an adapter: attention (`query`, `key`, `value`, `output`) and MLP (`mlp_in`, `mlp_out`) of the visual stream, and the same of the text stream (`text_...`). Larger sets learn more and need more memory."""
    base_weights: BaseWeights = Field(default="BFloat16", json_schema_extra=UNSTORED)
    """How the frozen weights of the base are kept in the GPU while the adapter is trained. `Int8` and `Float8` take half of the memory, for GPUs of 24 to 48 GB, and cost a little accuracy (`Int8` less) and time. The adapter is the same kind of file, and samples are made with the base as it is published."""
    blocks_to_swap: int = Field(default=0, ge=0, le=47, json_schema_extra=UNSTORED)
    """So many blocks of the base, of 48, wait in the host's memory and are copied to the GPU ahead of their use (block swapping). Changes no number of the training; needs less of the GPU, more of the pod's memory, and time where copies are slower than the computation. Each beyond two counts: 0.4 GB with `baseWeights` BFloat16, 0.2 GB otherwise."""
    start_from: OptionalLoraUri = ""
    """LoRA file to go on from, such as `s3://runs/dissolve/lora.safetensors`, as this trainer, Diffusers, peft, ComfyUI or kohya's scripts wrote it, or the folder, with a `/` at its end, that has one; its rank and targets must fit into those given here. Empty: a new adapter."""
    export_merged: bool = False
    """Store the base with the adapter added to its weights too, as `artifacts/dit-merged.safetensors`. It is as large as the base, and the pod needs as much disk again (twice that with a model in S3)."""


class CheckpointSpec(ApiModel):
    """When the state of training is saved; the last step always is."""

    every_steps: int = Field(default=200, ge=1, le=1_000_000)
    """Steps between two checkpoints."""
    keep_last: int = Field(default=3, ge=1, le=100)
    """How many of the newest checkpoints are kept."""


class ValidationSpec(ApiModel):
    """Clips that are held out: never trained on, so that their loss tells how long training helps."""

    clips: int | None = Field(default=None, ge=0, le=256)
    """Clips held out, each with all its segments and near-duplicates; when not set a tenth of them, at most 8, and none of fewer than 20. 0 holds none out. Which ones does not depend on the seed."""
    every_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    """Steps between two evaluations; when not set they are made with each checkpoint. Each costs four forward passes a clip; of four clips or fewer 32 together, or 24 of three."""


class EmaSpec(ApiModel):
    """An exponential moving average of the weights."""

    decay: Annotated[DecimalString, Bounds(at_least=0, less_than=1)] = Field(
        default=Decimal("0.999"), json_schema_extra=UNSTORED
    )
    """Share of the average that is left by each step; after n steps at most (1 + n) / (10 + n), so that the first weights are soon forgotten."""


class TrainingSpec(ApiModel):
    """The optimisation: AdamW with warm-up."""

    steps: int = Field(default=2000, ge=1, le=1_000_000)
    """Optimizer steps."""
    learning_rate: Annotated[DecimalString, Bounds(more_than=0, at_most=1)] | None = None
    """Peak learning rate; when not set `"0.0002"` with mode lora and `"0.00001"` with mode full."""
    warmup_steps: int | None = Field(default=None, ge=0, le=1_000_000)
    """Steps over which the learning rate rises to its peak; when not set a tenth of `steps`, at most 200."""
    schedule: Literal["Cosine", "Constant"] = "Cosine"
    """Course of the learning rate after the warm-up."""
    weight_decay: Annotated[DecimalString, Bounds(at_least=0, at_most=1)] = Decimal("0.01")
    """Weight decay of AdamW."""
    global_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Clips per optimizer step over all pods, a multiple of all their GPUs (of the pods, where these have none) over `contextParallel`; when not set just as many."""
    context_parallel: int = Field(default=1, ge=1, le=8, json_schema_extra=UNSTORED)
    """GPUs of one pod that share the tokens of each clip, for clips too long for one: their activations divide by it. It divides `workers.gpusPerPod` and the model's attention heads, 24 of `mochi-1` and 4 of `nano`."""
    gradient_clip: Annotated[DecimalString, Bounds(at_least=0, at_most=1_000_000)] = Decimal("1.0")
    """Largest norm of the gradient; 0 switches clipping off."""
    caption_dropout: Annotated[DecimalString, Bounds(at_least=0, at_most=1)] = Decimal("0.1")
    """Share of samples trained with the empty prompt, which guidance needs."""
    seed: int = Field(default=42, ge=0, le=2_147_483_647)
    """Seed of every random draw."""
    lora: LoraSpec | None = None
    """The adapter; only with mode lora, where it defaults to rank 16 on query and value."""
    ema: EmaSpec | None = None
    """Keep a moving average of the weights too, only with mode full: `dit.safetensors`, samples and the evaluations are of the average then, and the weights themselves are `dit-unaveraged.safetensors`. It takes 4 bytes a parameter, in equal parts on all GPUs, and as much of each checkpoint. When not set there is none."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """When the state of training is saved."""
    validation: ValidationSpec = Field(default_factory=ValidationSpec, json_schema_extra=UNSTORED)
    """The clips that are held out."""
    resume_from: OptionalUri = Field(default="", json_schema_extra=UNSTORED)
    """Folder of another run, such as `s3://runs/dissolve/runs/4f2c.../`, from whose newest good checkpoint this one goes on: weights, optimizer and step. Mode, model and adapter must be that run's, `steps` counts from its start; its files are only read. Empty: training starts at step 1."""


class SamplingSpec(ApiModel):
    """Sample videos made from the tuned weights, after training and, if asked for, during it."""

    prompts: list[Annotated[str, Field(max_length=2000)]] = Field(default_factory=list, max_length=16)
    """One video for each prompt; when empty, one for the first caption of the dataset."""
    every_steps: int = Field(default=0, ge=0, le=1_000_000, json_schema_extra=UNSTORED)
    """Also during the training: from the first checkpoint at or after each multiple of so many steps, in a pod of its own, `samples/step-000400/` and so on; 0: only after training. At least `training.checkpoint.everySteps`, since a checkpoint is what they are made from, and less than `training.steps`."""
    steps: int = Field(default=64, ge=1, le=1000)
    """Euler steps."""
    guidance: Annotated[DecimalString, Bounds(at_least=0, at_most=100)] = Decimal("6.0")
    """Scale of classifier-free guidance."""
    seed: int = Field(default=12345, ge=0, le=2_147_483_647)
    """Seed of the starting noise."""
    gpus: int | None = Field(default=None, ge=0, le=1)
    """GPUs of the pod; when not set 1 for `mochi-1` and 0 for `nano`."""


class FineTuneSpec(ApiModel):
    """What to fine-tune, on which clips, and where the results go."""

    mode: Mode
    """`lora` trains an adapter, on one GPU unless `limits` allows more; `full` trains all weights on several GPUs."""
    limits: Limits = Field(default="Guide", json_schema_extra=UNSTORED)
    """What bounds LoRA: `Guide` what the published guide promises, one GPU and at most 85 frames; `Memory` only what the GPUs hold as predicted, so also several GPUs, each with the whole model and clips of its own, and up to 163 frames."""
    model: ModelSpec = Field(default_factory=ModelSpec)
    """The base model."""
    dataset: DatasetSpec
    """The clips and captions."""
    storage: StorageSpec
    """Where results go."""
    preprocessing: PreprocessingSpec = Field(default_factory=PreprocessingSpec)
    """How clips become training data."""
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    """The optimisation."""
    sampling: SamplingSpec = Field(default_factory=SamplingSpec)
    """Sample videos made after training."""
    workers: WorkersSpec = Field(default_factory=WorkersSpec)
    """The pods."""
    run_policy: RunPolicySpec = Field(default_factory=RunPolicySpec)
    """Attempts and limits."""
