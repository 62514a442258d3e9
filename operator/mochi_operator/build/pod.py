"""The pod of every child: one container that passes Pod Security `restricted`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mochi_api import identity, resolved
from mochi_api.pods import EnvSpec, PodTemplateSpec, TolerationSpec
from mochi_api.progress import PORT
from mochi_api.runfile import RUN_FILE_PATH, Stage
from mochi_api.spec import FineTuneSpec, PvcSource
from mochi_api.status import Resolved
from mochi_operator import names
from mochi_operator.build.config import CA_FILE, DATASET_MOUNT, MODEL_MOUNT, default_ca
from mochi_operator.build.recipe import Recipe, labels

USER = 10001
KEYS_MOUNT = "/mnt/mochi/s3-keys"
CA_MOUNT = "/mnt/mochi/s3-ca"
RUN_MOUNT = str(PurePosixPath(RUN_FILE_PATH).parent)
KEYS = identity.KEYS_ENV
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"


def gpus(spec: FineTuneSpec, chosen: Resolved, step: Stage) -> int:
    """GPUs of one pod of a step; those of training are as they were resolved at the first visit."""
    asked = resolved.gpus(spec)
    return {
        "check": 0,
        "trim": 0,
        "captions": asked.captions,
        "videos": asked.videos,
        "train": chosen.gpus_per_pod,
        "sample": asked.sampling,
        "preview": asked.sampling,
    }[step]


def template(
    recipe: Recipe, *, container: str, env: Sequence[dict[str, Any]] = (), grace_seconds: int = 30
) -> dict[str, Any]:
    """The pod template of one child, with `env` in front of what every container gets."""
    extra = recipe.spec.workers.pod_template
    metadata: dict[str, Any] = {"labels": {**extra.labels, **labels(recipe)}}
    if extra.annotations:
        metadata["annotations"] = dict(extra.annotations)
    return {"metadata": metadata, "spec": _spec(recipe, container, env, grace_seconds)}


def value(name: str, text: str) -> dict[str, Any]:
    """An environment variable."""
    return {"name": name, "value": text}


def from_field(name: str, path: str) -> dict[str, Any]:
    """An environment variable that the kubelet fills from the pod itself."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _spec(
    recipe: Recipe, container: str, env: Sequence[dict[str, Any]], grace_seconds: int
) -> dict[str, Any]:
    extra = recipe.spec.workers.pod_template
    return {
        **_restart(recipe),
        "terminationGracePeriodSeconds": grace_seconds,
        "automountServiceAccountToken": False,  # identities of clouds bring a token of their own
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            **_user(extra),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(recipe, container, env)],
        "volumes": _volumes(recipe),
        **_placement(recipe),
        **_extra(extra),
    }


def _user(extra: PodTemplateSpec) -> dict[str, int]:
    """OpenShift gives every namespace a range of its own and refuses what lies outside."""
    return {} if extra.user_from_namespace else {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}


def _restart(recipe: Recipe) -> dict[str, Any]:
    """The training operator sets it itself, and warns about one that it finds."""
    return {} if recipe.step == "train" else {"restartPolicy": "Never"}


def _container(recipe: Recipe, name: str, env: Sequence[dict[str, Any]]) -> dict[str, Any]:
    asked = [_asked(each) for each in recipe.spec.workers.env]
    taken = {each["name"] for each in asked}
    return {
        "name": name,
        "image": recipe.resolved.image,
        "command": ["python", "-m", "mochi_trainer"],
        "args": [recipe.step, "--run", RUN_FILE_PATH],
        "env": [
            *(each for each in env if each["name"] not in taken),  # NCCL's may be another
            *asked,
            value("HOME", "/tmp"),  # noqa: S108 a volume of the pod's own
            value("USER", "mochi"),  # libraries ask for it; the uid need not be in the image's passwd
            value(identity.IMAGE_ENV, recipe.resolved.image),
            from_field(identity.POD_IP_ENV, "status.podIP"),
            *_credentials(recipe.spec),
            *_ca(recipe),
        ],
        **_ports(recipe),
        "resources": _resources(recipe),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": _mounts(recipe),
    }


def _asked(spec: EnvSpec) -> dict[str, Any]:
    if spec.value_from is None:
        return value(spec.name, spec.value)
    secret = spec.value_from.secret_key_ref
    return {"name": spec.name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}


def _ports(recipe: Recipe) -> dict[str, Any]:
    if recipe.step != "train":
        return {}
    return {"ports": [{"name": identity.METRICS_PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]}


def _credentials(spec: FineTuneSpec) -> list[dict[str, Any]]:
    """The keys as variables, which every image reads and a missing Secret is seen by, and as files, which are renewed."""
    secret = spec.storage.s3.credentials_secret_name
    if not secret:
        return []
    required = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in KEYS[:2]
    ]
    token = {"name": secret, "key": KEYS[2], "optional": True}
    return [
        *required,
        {"name": KEYS[2], "valueFrom": {"secretKeyRef": token}},
        value(identity.CREDENTIALS_ENV, KEYS_MOUNT),
    ]


def _ca(recipe: Recipe) -> list[dict[str, Any]]:
    """The variable by which boto3 itself, in images of any version, finds certificates to trust."""
    if recipe.spec.storage.s3.ca_bundle is not None:
        return [value(identity.CA_ENV, f"{CA_MOUNT}/{CA_FILE}")]
    return [value(identity.CA_ENV, f"{RUN_MOUNT}/{CA_FILE}")] if default_ca(recipe) else []


def _resources(recipe: Recipe) -> dict[str, Any]:
    """Requests equal limits, so that a pod is never killed for what its neighbours use."""
    asked = recipe.spec.workers.resources
    pairs = (("cpu", asked.cpu), ("memory", asked.memory), ("ephemeral-storage", asked.ephemeral_storage))
    amounts = {name: amount for name, amount in pairs if amount}
    count = gpus(recipe.spec, recipe.resolved, recipe.step)
    limits = {**amounts, recipe.spec.workers.gpu_resource_name: str(count)} if count else dict(amounts)
    return {key: part for key, part in (("requests", amounts), ("limits", limits)) if part}


def _mounts(recipe: Recipe) -> list[dict[str, Any]]:
    """Whole folders: what is mounted by `subPath` is never renewed."""
    run = {"name": "run", "mountPath": RUN_MOUNT, "readOnly": True}
    claims = [{"name": name, "mountPath": mount, "readOnly": True} for name, mount, _ in _claims(recipe.spec)]
    scratch = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108
    s3 = [
        {"name": volume["name"], "mountPath": mount, "readOnly": True}
        for mount, volume in _s3_volumes(recipe.spec).items()
    ]
    return [run, *scratch, *claims, *s3]


def _volumes(recipe: Recipe) -> list[dict[str, Any]]:
    size = recipe.spec.workers.shm_size
    claims = [
        {"name": name, "persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
        for name, _, claim in _claims(recipe.spec)
    ]
    return [
        {"name": "run", "configMap": {"name": names.run_config(recipe.child)}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", **({"sizeLimit": size} if size else {})}},
        *claims,
        *_s3_volumes(recipe.spec).values(),
    ]


def _s3_volumes(spec: FineTuneSpec) -> dict[str, dict[str, Any]]:
    """By mount. All optional: of a missing Secret the variables tell, of missing certificates the trainer."""
    s3 = spec.storage.s3
    found: dict[str, dict[str, Any]] = {}
    if s3.credentials_secret_name:
        items = [{"key": key, "path": key} for key in KEYS]
        secret = {"secretName": s3.credentials_secret_name, "items": items, "optional": True}
        found[KEYS_MOUNT] = {"name": "s3-keys", "secret": secret}
    if s3.ca_bundle is not None:
        item: dict[str, Any] = {"items": [{"key": s3.ca_bundle.key, "path": CA_FILE}], "optional": True}
        source = (
            {"secret": {"secretName": s3.ca_bundle.secret_name, **item}}
            if s3.ca_bundle.secret_name
            else {"configMap": {"name": s3.ca_bundle.config_map_name, **item}}
        )
        found[CA_MOUNT] = {"name": "s3-ca", **source}
    return found


def _claims(spec: FineTuneSpec) -> list[tuple[str, str, PvcSource]]:
    found = []
    if spec.dataset.source.pvc is not None:
        found.append(("dataset", DATASET_MOUNT, spec.dataset.source.pvc))
    if spec.model.source is not None and spec.model.source.pvc is not None:
        found.append(("model", MODEL_MOUNT, spec.model.source.pvc))
    return found


def _placement(recipe: Recipe) -> dict[str, Any]:
    products = recipe.spec.workers.gpu_products
    if not products or not gpus(recipe.spec, recipe.resolved, recipe.step):
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
