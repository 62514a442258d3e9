"""The pod of every child: one container that passes Pod Security `restricted`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mochi_api import identity, resolved
from mochi_api.progress import PORT
from mochi_api.runfile import RUN_FILE_PATH
from mochi_api.spec import FineTuneSpec, PodTemplateSpec, PvcSource, TolerationSpec
from mochi_operator import names
from mochi_operator.build.config import DATASET_MOUNT, MODEL_MOUNT
from mochi_operator.build.metadata import labels
from mochi_operator.build.order import Order

USER = 10001
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"


def gpus(order: Order) -> int:
    """GPUs of one pod; those of training are as they were resolved at the first visit."""
    chosen = resolved.gpus(order.spec)
    return {
        "trim": 0,
        "captions": chosen.captions,
        "videos": chosen.videos,
        "train": order.resolved.gpus_per_pod,
        "sample": chosen.sampling,
    }[order.stage]


def template(
    order: Order, *, container: str, env: Sequence[dict[str, Any]] = (), grace_seconds: int = 30
) -> dict[str, Any]:
    """The pod template of one child, with `env` in front of what every container gets."""
    return {"metadata": {"labels": labels(order)}, "spec": _spec(order, container, env, grace_seconds)}


def value(name: str, text: str) -> dict[str, Any]:
    """An environment variable."""
    return {"name": name, "value": text}


def from_field(name: str, path: str) -> dict[str, Any]:
    """An environment variable that the kubelet fills from the pod itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _spec(order: Order, container: str, env: Sequence[dict[str, Any]], grace_seconds: int) -> dict[str, Any]:
    extra = order.spec.workers.pod_template
    return {
        **_restart(order),
        "terminationGracePeriodSeconds": grace_seconds,
        "automountServiceAccountToken": bool(extra.service_account_name),
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(order, container, env)],
        "volumes": _volumes(order),
        **_placement(order),
        **_extra(extra),
    }


def _restart(order: Order) -> dict[str, Any]:
    """The training operator sets it itself, and warns about one that it finds."""
    return {} if order.stage == "train" else {"restartPolicy": "Never"}


def _container(order: Order, name: str, env: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "image": order.resolved.image,
        "command": ["python", "-m", "mochi_trainer"],
        "args": [order.stage, "--run", RUN_FILE_PATH],
        "env": [
            *env,
            value("HOME", "/tmp"),  # noqa: S108 a volume of the pod's own
            value("USER", "mochi"),  # libraries ask for it; the uid need not be in the image's passwd
            value(identity.IMAGE_ENV, order.resolved.image),
            from_field(identity.POD_IP_ENV, "status.podIP"),
            *_credentials(order.spec),
        ],
        **_ports(order),
        "resources": _resources(order),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": _mounts(order),
    }


def _ports(order: Order) -> dict[str, Any]:
    if order.stage != "train":
        return {}
    return {"ports": [{"name": identity.METRICS_PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]}


def _credentials(spec: FineTuneSpec) -> list[dict[str, Any]]:
    secret = spec.storage.s3.credentials_secret_name
    if not secret:
        return []
    required = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    keys: list[dict[str, Any]] = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in required
    ]
    token = {"name": secret, "key": "AWS_SESSION_TOKEN", "optional": True}
    return [*keys, {"name": "AWS_SESSION_TOKEN", "valueFrom": {"secretKeyRef": token}}]


def _resources(order: Order) -> dict[str, Any]:
    """Requests equal limits, so that a pod is never killed for what its neighbours use."""
    asked = order.spec.workers.resources
    pairs = (("cpu", asked.cpu), ("memory", asked.memory), ("ephemeral-storage", asked.ephemeral_storage))
    amounts = {name: amount for name, amount in pairs if amount}
    count = gpus(order)
    limits = {**amounts, order.spec.workers.gpu_resource_name: str(count)} if count else dict(amounts)
    return {key: part for key, part in (("requests", amounts), ("limits", limits)) if part}


def _mounts(order: Order) -> list[dict[str, Any]]:
    run = {"name": "run", "mountPath": str(PurePosixPath(RUN_FILE_PATH).parent), "readOnly": True}
    claims = [{"name": name, "mountPath": mount, "readOnly": True} for name, mount, _ in _claims(order.spec)]
    scratch = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108
    return [run, *scratch, *claims]


def _volumes(order: Order) -> list[dict[str, Any]]:
    size = order.spec.workers.shm_size
    claims = [
        {"name": name, "persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
        for name, _, claim in _claims(order.spec)
    ]
    return [
        {"name": "run", "configMap": {"name": names.run_config(order.child)}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", **({"sizeLimit": size} if size else {})}},
        *claims,
    ]


def _claims(spec: FineTuneSpec) -> list[tuple[str, str, PvcSource]]:
    found = []
    if spec.dataset.source.pvc is not None:
        found.append(("dataset", DATASET_MOUNT, spec.dataset.source.pvc))
    if spec.model.source is not None and spec.model.source.pvc is not None:
        found.append(("model", MODEL_MOUNT, spec.model.source.pvc))
    return found


def _placement(order: Order) -> dict[str, Any]:
    products = order.spec.workers.gpu_products
    if not products or not gpus(order):
        return {}
    wanted = {"key": GPU_PRODUCT_LABEL, "operator": "In", "values": list(products)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def _extra(extra: PodTemplateSpec) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "nodeSelector": dict(extra.node_selector),
        "tolerations": [_toleration(item) for item in extra.tolerations],
        "priorityClassName": extra.priority_class_name,
        "serviceAccountName": extra.service_account_name,
        "imagePullSecrets": [{"name": name} for name in extra.image_pull_secrets],
    }
    return {key: part for key, part in parts.items() if part}


def _toleration(item: TolerationSpec) -> dict[str, str]:
    parts = {"key": item.key, "operator": item.operator, "value": item.value, "effect": item.effect}
    return {key: part for key, part in parts.items() if part}
