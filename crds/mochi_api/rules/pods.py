"""Rules on `workers`: what the API server would refuse in a pod, which for a training comes after its preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api.base import cel_text
from mochi_api.pods import TolerationSpec
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec

_TOLERATIONS = "self.workers.podTemplate.tolerations"
_LABELS = "self.workers.podTemplate.labels"
_CONTROLLERS = ("job-name", "controller-uid")
_CONTROLLER_DOMAINS = ("batch.kubernetes.io/", "training.kubeflow.org/")
_NO_VALUE = "spec.workers.podTemplate.tolerations must have no value with operator Exists, and a key with operator Equal"
_NOT_THEIRS = "spec.workers.podTemplate.labels must leave to Jobs and PyTorchJobs what they set themselves"
_ODD = "((t.operator == 'Exists' && t.value != '') || (t.operator == 'Equal' && t.key == ''))"
_IS_THEIRS = "(key in [{}] || {})".format(
    ", ".join(map(cel_text, _CONTROLLERS)),
    " || ".join(f"key.startsWith({cel_text(domain)})" for domain in _CONTROLLER_DOMAINS),
)

_GPU = "self.workers.gpuResourceName"
_NO_DEVICE = (
    "spec.workers.gpuResourceName must be an extended resource such as nvidia.com/gpu, outside of kubernetes.io and without "
    "the requests. of quotas"
)
_QUOTAS = "requests."
_NATIVE = "kubernetes.io/"


def _odd(each: TolerationSpec) -> bool:
    return bool(each.value) if each.operator == "Exists" else not each.key


def _tolerations(spec: FineTuneSpec) -> str | None:
    found = [f"{each.key}={each.value}" for each in spec.workers.pod_template.tolerations if _odd(each)]
    return f"{_NO_VALUE}, got {found[0]}" if found else None


def _labels(spec: FineTuneSpec) -> str | None:
    theirs = any(
        key in _CONTROLLERS or key.startswith(_CONTROLLER_DOMAINS) for key in spec.workers.pod_template.labels
    )
    return _NOT_THEIRS if theirs else None


def _no_device(spec: FineTuneSpec) -> str | None:
    name = spec.workers.gpu_resource_name
    return f"{_NO_DEVICE}, got {name}" if name.startswith(_QUOTAS) or _NATIVE in name else None


PODS: Sequence[Rule] = (
    Rule(
        path="spec.workers.podTemplate.tolerations",
        cel=f"!has({_TOLERATIONS}) || !{_TOLERATIONS}.exists(t, {_ODD})",
        message=cel_message(
            f"{_NO_VALUE}, got %s=%s",
            f"{_TOLERATIONS}.filter(t, {_ODD})[0].key",
            f"{_TOLERATIONS}.filter(t, {_ODD})[0].value",
        ),
        broken=_tolerations,
    ),
    Rule(
        path="spec.workers.podTemplate.labels",
        cel=f"!has({_LABELS}) || !{_LABELS}.exists(key, {_IS_THEIRS})",
        message=cel_text(_NOT_THEIRS),
        broken=_labels,
    ),
    Rule(
        path="spec.workers.gpuResourceName",
        cel=f"!{_GPU}.startsWith({cel_text(_QUOTAS)}) && !{_GPU}.contains({cel_text(_NATIVE)})",
        message=cel_message(f"{_NO_DEVICE}, got %s", _GPU),
        broken=_no_device,
    ),
)
