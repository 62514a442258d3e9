"""Rules on how many GPUs train, and how they share a batch and a clip."""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api import resolved
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.rules.limits import GUIDED, guided
from mochi_api.rules.rule import Rule, cel_message
from mochi_api.spec import FineTuneSpec

_BATCH = "self.training.globalBatchSize"
_CONTEXT = "(has(self.training.contextParallel) && self.training.contextParallel > 1 ? self.training.contextParallel : 1)"
_HEADS = f"(self.model.preset == 'nano' ? {NETWORKS['nano'].heads} : {NETWORKS['mochi-1'].heads})"
_GPUS = "(has(self.workers.gpusPerPod) && self.workers.gpusPerPod > 1 ? self.workers.gpusPerPod : 1)"
"""Of a pod; one without any trains like one with one. A number below 1 is the field's own matter, here as below."""
_USUAL = f"(self.mode == 'lora' ? {resolved.USUAL_GPUS['lora']} : {resolved.USUAL_GPUS['full']})"
_REPLICAS = f"(has(self.workers.replicas) && self.workers.replicas > 0 ? self.workers.replicas : ({_USUAL} + {_GPUS} - 1) / {_GPUS})"


def _lora_gpus(spec: FineTuneSpec) -> str | None:
    replicas, gpus = resolved.replicas(spec), max(1, spec.workers.gpus_per_pod or 1)
    if not guided(spec) or replicas * gpus == 1:
        return None
    return (
        "spec.workers.replicas x gpusPerPod must be 1 with mode lora and limits Guide "
        f"(limits: Memory allows more), got {replicas} x {gpus}"
    )


def _batch(spec: FineTuneSpec) -> str | None:
    replicas, gpus = resolved.replicas(spec), max(1, spec.workers.gpus_per_pod or 1)
    batch = spec.training.global_batch_size
    if batch is None or spec.training.context_parallel > 1 or batch % (replicas * gpus) == 0:
        return None
    return (
        f"spec.training.globalBatchSize must be a multiple of the {replicas * gpus} GPUs of training "
        f"(workers.replicas x gpusPerPod = {replicas} x {gpus}), got {batch}"
    )


def _shared_batch(spec: FineTuneSpec) -> str | None:
    replicas, gpus = resolved.replicas(spec), max(1, spec.workers.gpus_per_pod or 1)
    batch, context = spec.training.global_batch_size, spec.training.context_parallel
    if batch is None or context == 1 or gpus % context or batch % (replicas * gpus // context) == 0:
        return None
    return (
        f"spec.training.globalBatchSize must be a multiple of the {replicas * gpus // context} clips that are trained on at "
        f"the same time (workers.replicas x gpusPerPod / contextParallel = {replicas} x {gpus} / {context}), got {batch}"
    )


def _context_gpus(spec: FineTuneSpec) -> str | None:
    gpus, context = max(1, spec.workers.gpus_per_pod or 1), spec.training.context_parallel
    if gpus % context == 0:
        return None
    return (
        f"spec.training.contextParallel must divide the {gpus} GPUs of a pod (workers.gpusPerPod): those that share a "
        f"clip exchange its tokens in every block, got {context}"
    )


def _context_heads(spec: FineTuneSpec) -> str | None:
    heads, context = NETWORKS[spec.model.preset].heads, spec.training.context_parallel
    if heads % context == 0:
        return None
    return f"spec.training.contextParallel must divide the {heads} attention heads of preset {spec.model.preset}, got {context}"


GPUS: Sequence[Rule] = (
    Rule(
        path="spec.workers.replicas",
        cel=f"!{GUIDED} || {_REPLICAS} * {_GPUS} == 1",
        message=cel_message(
            "spec.workers.replicas x gpusPerPod must be 1 with mode lora and limits Guide "
            "(limits: Memory allows more), got %d x %d",
            _REPLICAS,
            _GPUS,
        ),
        broken=_lora_gpus,
    ),
    Rule(
        path="spec.training.globalBatchSize",
        cel=f"!has({_BATCH}) || {_CONTEXT} > 1 || {_BATCH} % ({_REPLICAS} * {_GPUS}) == 0",
        message=cel_message(
            "spec.training.globalBatchSize must be a multiple of the %d GPUs of training "
            "(workers.replicas x gpusPerPod = %d x %d), got %d",
            f"{_REPLICAS} * {_GPUS}",
            _REPLICAS,
            _GPUS,
            _BATCH,
        ),
        broken=_batch,
    ),
    Rule(
        path="spec.training.globalBatchSize",
        cel=f"!has({_BATCH}) || {_CONTEXT} == 1 || {_GPUS} % {_CONTEXT} != 0 || "
        f"{_BATCH} % ({_REPLICAS} * {_GPUS} / {_CONTEXT}) == 0",
        message=cel_message(
            "spec.training.globalBatchSize must be a multiple of the %d clips that are trained on at the same time "
            "(workers.replicas x gpusPerPod / contextParallel = %d x %d / %d), got %d",
            f"{_REPLICAS} * {_GPUS} / {_CONTEXT}",
            _REPLICAS,
            _GPUS,
            _CONTEXT,
            _BATCH,
        ),
        broken=_shared_batch,
    ),
    Rule(
        path="spec.training.contextParallel",
        cel=f"{_GPUS} % {_CONTEXT} == 0",
        message=cel_message(
            "spec.training.contextParallel must divide the %d GPUs of a pod (workers.gpusPerPod): those that share a clip "
            "exchange its tokens in every block, got %d",
            _GPUS,
            _CONTEXT,
        ),
        broken=_context_gpus,
    ),
    Rule(
        path="spec.training.contextParallel",
        cel=f"{_HEADS} % {_CONTEXT} == 0",
        message=cel_message(
            "spec.training.contextParallel must divide the %d attention heads of preset %s, got %d",
            _HEADS,
            "self.model.preset",
            _CONTEXT,
        ),
        broken=_context_heads,
    ),
)
