"""The values of the Helm chart: what `helm/mochi-operator/values.yaml` may hold, and its defaults.

`make sync` makes `values.schema.json` from it, so that Helm refuses an unknown or mistyped value before it renders.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from mochi_api.base import ApiModel

_REPOSITORY_PART = "[a-z0-9]+([._-]+[a-z0-9]+)*"
_REPOSITORY = rf"^(([a-zA-Z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]+)?/)?{_REPOSITORY_PART}(/{_REPOSITORY_PART})*$"
_NAME = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
NamePart = Annotated[str, Field(max_length=40, pattern=_NAME)]
ObjectName = Annotated[str, Field(max_length=63, pattern=_NAME)]
Strings = dict[str, str]
"""Labels, annotations or a node selector."""
QuantityText = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$")]
QuantityValue = QuantityText | Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0)]
ResourceKey = Annotated[
    str,
    Field(
        pattern=r"^(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMGT]i|[a-z0-9][a-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9._-]*)$"
    ),
]
Resources = dict[ResourceKey, QuantityValue]
CLOSED: dict[str, JsonValue] = {"additionalProperties": False}
"""Of a map whose keys have a pattern."""
SubdomainName = Annotated[
    str,
    Field(max_length=253, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$"),
]


class Values(ApiModel):
    """Closed: Helm refuses a value that the chart does not know."""

    model_config = ConfigDict(extra="forbid")


class ImageValues(Values):
    """Where an image is pulled from."""

    repository: str = Field(min_length=1, max_length=400, pattern=_REPOSITORY)
    """Repository, with its registry, without a scheme and a tag."""
    tag: str = Field(default="", max_length=128, pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*)?$")
    """Tag; empty: the chart's appVersion."""
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """Digest; it wins over the tag."""


class OperatorImageValues(ImageValues):
    """Where the operator's image is pulled from, and when."""

    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet pulls."""


class PullSecretValues(Values):
    """A reference to a pull secret."""

    name: str = Field(min_length=1, max_length=253)
    """Its name."""


class CrdValues(Values):
    """The CustomResourceDefinition of MochiFineTune."""

    enabled: bool = True
    """Install and upgrade it with this chart."""
    keep: bool = True
    """Keep it, and with it every MochiFineTune, when the chart is uninstalled."""


class RbacValues(Values):
    """Permissions."""

    create: bool = True
    """Create the operator's Role or ClusterRole and its bindings."""
    aggregate: bool = True
    """Let the built-in roles view, edit and admin cover MochiFineTunes too."""


class ServiceAccountValues(Values):
    """The ServiceAccount the operator runs as."""

    create: bool = True
    """Create it; otherwise it must exist."""
    name: SubdomainName = ""
    """Its name; empty: the release's full name, or `default` when create is false."""
    annotations: Strings = Field(default_factory=dict)
    """Its annotations."""


class PodSecurityValues(Values):
    """Whom the operator's pod runs as."""

    user_from_namespace: bool = False
    """Leave user and group to the namespace, as OpenShift wants it; otherwise they are 10001."""


class ResourceValues(Values):
    """CPU and memory of the operator."""

    requests: Resources = Field(default={"cpu": "100m", "memory": "128Mi"}, json_schema_extra=CLOSED)
    """What the scheduler sets aside."""
    limits: Resources = Field(default={"memory": "512Mi"}, json_schema_extra=CLOSED)
    """What the container is held to."""


class TolerationValues(Values):
    """A toleration as in a pod's spec."""

    key: str = Field(default="", max_length=317)
    """Key of the taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How key and value are compared."""
    value: str = Field(default="", max_length=63)
    """Value of the taint."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint; empty matches all."""
    toleration_seconds: int | None = Field(default=None)
    """How long the taint NoExecute is tolerated."""


class MonitoringValues(Values):
    """Prometheus Operator objects: ServiceMonitor, PodMonitor and PrometheusRule."""

    enabled: bool = False
    """Create them; needs the CRDs of monitoring.coreos.com in the cluster."""
    labels: Strings = Field(default_factory=dict)
    """Labels of the three objects, for Prometheus installations that select by one."""
    interval: str = Field(default="15s", pattern=r"^[1-9][0-9]*(ms|s|m)$")
    """Time between two scrapes."""
    runbook_base_url: str = Field(
        default="", alias="runbookBaseURL", max_length=2048, pattern=r"^(https?://[^\s\"]+)?$"
    )
    """Address of the folder with the alerts' runbooks; empty: the path inside this project."""


class ChartValues(Values):
    """The values of the chart mochi-operator."""

    image: OperatorImageValues = OperatorImageValues(repository="mochi-operator")
    """The operator's own image."""
    trainer_image: ImageValues = ImageValues(repository="mochi-trainer")
    """Image of training pods and Jobs, for every MochiFineTune that names none."""
    image_pull_secrets: list[PullSecretValues] = Field(default_factory=list)
    """Pull secrets of the operator's pod."""
    name_override: NamePart = ""
    """Replaces the chart's name in the names of all objects."""
    fullname_override: NamePart = ""
    """Replaces the whole first part of the names of all objects."""
    watch_namespaces: list[Namespace] = Field(default_factory=list, json_schema_extra={"uniqueItems": True})
    """Namespaces to look after; empty: all of them."""
    progress_seconds: int = Field(default=30, ge=1, le=3600)
    """Seconds between two writes of training progress to a status."""
    ca_bundle: str = Field(
        default="",
        max_length=100_000,
        pattern=r"^$|-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----",
    )
    """Certificates in PEM that pods of runs trust for S3, where a MochiFineTune names none."""
    crds: CrdValues = CrdValues()
    """The CustomResourceDefinition."""
    rbac: RbacValues = RbacValues()
    """Permissions."""
    service_account: ServiceAccountValues = ServiceAccountValues()
    """The ServiceAccount the operator runs as."""
    pod_annotations: Strings = Field(default_factory=dict)
    """Annotations of the operator's pod."""
    pod_labels: Strings = Field(default_factory=dict)
    """Labels of the operator's pod, besides the standard ones."""
    pod_security: PodSecurityValues = PodSecurityValues()
    """Whom the operator's pod runs as."""
    resources: ResourceValues = ResourceValues()
    """CPU and memory of the operator."""
    node_selector: Strings = Field(default_factory=dict)
    """Labels a node must have for the operator's pod."""
    tolerations: list[TolerationValues] = Field(default_factory=list)
    """Taints the operator's pod tolerates."""
    affinity: dict[str, Any] = Field(default_factory=dict)
    """Affinity of the operator's pod, as in a pod's spec."""
    priority_class_name: SubdomainName = ""
    """PriorityClass of the operator's pod; empty: the cluster's default."""
    monitoring: MonitoringValues = MonitoringValues()
    """Prometheus Operator objects."""
    global_: dict[str, Any] = Field(default_factory=dict, alias="global")
    """Not used; Helm adds it when this chart is a dependency of another."""


def schema_json() -> str:
    """The text of the chart's `values.schema.json`."""
    return json.dumps(_without_titles(ChartValues.model_json_schema(by_alias=True)), indent=2) + "\n"


def _without_titles(node: Any) -> Any:
    """Drop the titles pydantic makes out of names: they are strings, while a property called title is a mapping."""
    if isinstance(node, dict):
        return {
            key: _without_titles(value)
            for key, value in node.items()
            if key != "title" or not isinstance(value, str)
        }
    return [_without_titles(value) for value in node] if isinstance(node, list) else node
