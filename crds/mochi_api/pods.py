"""The part of the spec that is about pods: what they are, where they run, and how often they are tried."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from mochi_api.base import UNSTORED, ApiModel
from mochi_api.fields import (
    CpuQuantity,
    DataKey,
    DnsName,
    EnvName,
    GpuProduct,
    Image,
    LabelKey,
    LabelValue,
    OptionalDnsName,
    OptionalLabelKey,
    ResourceName,
    SizeQuantity,
)


class ResourcesSpec(ApiModel):
    """What every container of the run asks for besides GPUs; requests equal limits."""

    cpu: CpuQuantity = ""
    """CPU cores, such as `8` or `500m`; empty: no request."""
    memory: SizeQuantity = ""
    """Memory, such as `64Gi`; empty: no request."""
    ephemeral_storage: SizeQuantity = ""
    """Disk for weights and clips, such as `200Gi`; empty: no request."""


class TolerationSpec(ApiModel):
    """A toleration as in a pod's spec."""

    key: OptionalLabelKey = ""
    """Key of the taint; empty matches all keys with operator Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: LabelValue = ""
    """Value of the taint."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint; empty matches all."""


class PodTemplateSpec(ApiModel):
    """What is merged into every pod of the run."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels a node must have."""
    tolerations: list[TolerationSpec] = Field(default_factory=list, max_length=16)
    """Taints the pods tolerate."""
    priority_class_name: OptionalDnsName = ""
    """PriorityClass of the pods."""
    service_account_name: OptionalDnsName = ""
    """ServiceAccount of the pods, for IRSA or workload identity; empty: `default`, without a mounted token."""
    image_pull_secrets: list[DnsName] = Field(default_factory=list, max_length=8)
    """Names of pull secrets."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)
    """Labels of the pods, besides those of this project, which win."""
    annotations: dict[LabelKey, Annotated[str, Field(max_length=4096)]] = Field(
        default_factory=dict, max_length=32
    )
    """Annotations of the pods, such as `sidecar.istio.io/inject: "false"`."""
    user_from_namespace: bool = Field(default=False, json_schema_extra=UNSTORED)
    """Leave user, group and fsGroup of the pods to the namespace, as OpenShift wants it; otherwise they are 10001."""


class SecretKeySpec(ApiModel):
    """One key of a Secret of the run's namespace."""

    name: DnsName
    """Name of the Secret."""
    key: DataKey
    """Its key."""


class EnvSourceSpec(ApiModel):
    """Where a value comes from."""

    secret_key_ref: SecretKeySpec
    """A key of a Secret."""


class EnvSpec(ApiModel):
    """An environment variable, as in a pod's spec."""

    name: EnvName
    """Its name."""
    value: str = Field(default="", max_length=4096)
    """Its value, for everybody to read who may read the run."""
    value_from: EnvSourceSpec | None = None
    """The value from a Secret, instead."""


class WorkersSpec(ApiModel):
    """The pods."""

    replicas: int | None = Field(default=None, ge=1, le=64)
    """Training pods; when not set 1 for LoRA, and for full as many as make 8 GPUs: 8 pods of one GPU. More than one GPU in all for LoRA takes `limits: Memory`."""
    gpus_per_pod: int | None = Field(default=None, ge=0, le=8)
    """GPUs of a training pod, each with a process of its own; when not set 1 for `mochi-1` and 0 for `nano`. GPUs of one pod exchange over NVLink where they have it, those of several pods only over the network."""
    gpu_resource_name: ResourceName = "nvidia.com/gpu"
    """Resource name of the GPUs."""
    gpu_products: list[GpuProduct] = Field(default=["NVIDIA-H100-80GB-HBM3"], max_length=16)
    """GPU products (node label `nvidia.com/gpu.product`) the pods may run on; an empty list means any."""
    image: Image = ""
    """Trainer image; empty: the chart's."""
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    """CPU, memory and disk of each pod."""
    shm_size: SizeQuantity = "64Gi"
    """Largest size of `/dev/shm`, which NCCL uses."""
    env: list[EnvSpec] = Field(default_factory=list, max_length=32, json_schema_extra=UNSTORED)
    """Environment variables of every pod of the run, such as `NCCL_DEBUG`, `HTTPS_PROXY` or the trainer's `MOCHI_...`. Names that the operator sets itself are refused."""
    pod_template: PodTemplateSpec = Field(default_factory=PodTemplateSpec)
    """What is merged into every pod of the run."""


class RetryBackoffSpec(ApiModel):
    """The wait before the next attempt; it doubles each time."""

    initial_seconds: int = Field(default=30, ge=0, le=86_400)
    """Wait before the second attempt."""
    max_seconds: int = Field(default=900, ge=0, le=86_400)
    """Longest wait."""


RetryReason = Literal[
    "StorageError", "CollectiveTimeout", "DeviceUnavailable", "Superseded", "Preempted", "NodeLost", "Stalled",
    "BackendDeleted", "BackendUnavailable", "ArtifactsMissing", "Unknown",
]  # fmt: skip
"""The reasons that the table calls retryable; a test compares them."""


class RunPolicySpec(ApiModel):
    """Attempts and limits; may be changed while the run goes on."""

    backoff_limit: int = Field(default=3, ge=0, le=100)
    """Attempts of each step after the first. An attempt that was preempted, evicted or lost its node does not count, and one that got further than all before it starts the count anew."""
    retry_on: list[RetryReason] = Field(
        default=list(get_args(RetryReason)), max_length=16, json_schema_extra=UNSTORED
    )
    """Reasons after which a new attempt is made; by default all that may pass by themselves."""
    retry_backoff: RetryBackoffSpec = Field(default_factory=RetryBackoffSpec)
    """The wait between attempts."""
    active_deadline_seconds: int = Field(default=0, ge=0, le=31_536_000)
    """Longest duration of the whole run, from its creation; 0: none."""
    pre_running_deadline_seconds: int = Field(default=0, ge=0, le=31_536_000)
    """Longest wait of an attempt until all its pods run (quota, no free GPU, image pull); 0: none."""
    stall_timeout_seconds: int = Field(default=900, ge=30, le=86_400)
    """An attempt of which nothing moves for so long (no step, no clip, no byte read or written) is ended and tried again."""
    grace_period_seconds: int = Field(default=180, ge=1, le=3600)
    """Time a training pod has to save a checkpoint when it is stopped."""
