"""Rules that span fields, each written once with its two forms side by side: CEL and Python.

The CRD carries the CEL form, so the API server refuses a wrong object with the message. Whoever reads a spec without
an API server in front (the trainer by hand, tests) calls `violations`. A test feeds both the same objects.
"""

from __future__ import annotations

from collections.abc import Sequence

from mochi_api import resolved
from mochi_api.address_rules import Rule, cel_message, one_source, outside_dataset
from mochi_api.base import DECIMAL, Pattern
from mochi_api.bucket_rules import bucket_rules
from mochi_api.env_rules import ENV_RULES
from mochi_api.prediction.sizes import NETWORKS
from mochi_api.sampling_rules import SAMPLING_RULES
from mochi_api.spec import FineTuneSpec

NAME_LIMIT = 45
NAME = Pattern(
    looks_like="[a-z]([-a-z0-9]*[a-z0-9])?",
    words="metadata.name must start with a letter and hold only lower-case letters, digits and hyphens, the last no hyphen "
    "(names of child Services derive from it)",
)
"""Service names are DNS-1035 labels."""
LORA_FRAMES = 85
FULL_FRAMES = 163
PIXELS_480P = 848 * 480

_LONG_NAME = (
    f"metadata.name must have at most {NAME_LIMIT} characters (names of child objects derive from it)"
)


def _frame_grid(spec: FineTuneSpec) -> str | None:
    frames = spec.preprocessing.frames
    if frames % 6 == 1:
        return None
    lower = frames - (frames + 5) % 6
    return (
        f"spec.preprocessing.frames must be 1 more than a multiple of 6, got {frames}; "
        f"the nearest are {lower} and {lower + 6}"
    )


def _lora_frames(spec: FineTuneSpec) -> str | None:
    frames = spec.preprocessing.frames
    if not _guided(spec) or frames <= LORA_FRAMES:
        return None
    return (
        f"spec.preprocessing.frames must be at most {LORA_FRAMES} with mode lora and limits Guide "
        f"(limits: Memory allows what the GPUs hold), got {frames}"
    )


def _guided(spec: FineTuneSpec) -> bool:
    """Whether the guide's limits on LoRA hold."""
    return spec.mode == "lora" and spec.limits == "Guide"


def _pixels(spec: FineTuneSpec) -> str | None:
    width, height = spec.preprocessing.width, spec.preprocessing.height
    if width * height <= PIXELS_480P:
        return None
    return (
        f"spec.preprocessing.width x height must be at most {PIXELS_480P} pixels (848x480), "
        f"got {width}x{height} = {width * height}"
    )


def frames_that_fit(duration_seconds: float, fps: int) -> int:
    """The largest number of frames, 1 more than a multiple of 6, that lasts at most `duration_seconds`; 0 if none."""
    whole = int(duration_seconds * fps + 1e-6)
    return whole - (whole + 5) % 6 if whole >= 1 else 0


def _duration(spec: FineTuneSpec) -> str | None:
    prep = spec.preprocessing
    if prep.duration_seconds is None:
        return None
    seconds = float(prep.duration_seconds)
    if seconds * prep.fps + 1e-6 >= prep.frames:
        return None
    return (
        f"spec.preprocessing.durationSeconds must be at least frames / fps = {prep.frames} / {prep.fps} s, got "
        f"{prep.duration_seconds:f}, which holds {int(seconds * prep.fps + 1e-6)} frames; "
        f"the nearest number of frames that fits is {frames_that_fit(seconds, prep.fps)}"
    )


def _segments(spec: FineTuneSpec) -> str | None:
    asked = spec.preprocessing.segments
    if asked is None or asked.select != "First" or asked.max_per_clip in (None, 1):
        return None
    return (
        "spec.preprocessing.segments.maxPerClip must be 1 with select First (Even and Cuts take several), "
        f"got {asked.max_per_clip}"
    )


def _lora_only(spec: FineTuneSpec) -> str | None:
    if spec.mode == "lora" or spec.training.lora is None:
        return None
    return "spec.training.lora must be left out with mode full, which trains all weights"


def _ema(spec: FineTuneSpec) -> str | None:
    if spec.mode == "full" or spec.training.ema is None:
        return None
    return "spec.training.ema must be left out with mode lora, which trains no weights of the model"


def _lora_gpus(spec: FineTuneSpec) -> str | None:
    replicas, gpus = resolved.replicas(spec), max(1, spec.workers.gpus_per_pod or 1)
    if not _guided(spec) or replicas * gpus == 1:
        return None
    return (
        "spec.workers.replicas x gpusPerPod must be 1 with mode lora and limits Guide "
        f"(limits: Memory allows more), got {replicas} x {gpus}"
    )


def _published_source(spec: FineTuneSpec) -> str | None:
    if spec.model.preset != "mochi-1" or spec.model.source is not None:
        return None
    return "spec.model.source must be set for preset mochi-1: it names the folder with the published weights"


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


def _warmup(spec: FineTuneSpec) -> str | None:
    warmup, steps = spec.training.warmup_steps, spec.training.steps
    if warmup is None or warmup <= steps:
        return None
    return f"spec.training.warmupSteps must be at most steps = {steps}, got {warmup}"


def _targets(spec: FineTuneSpec) -> str | None:
    targets = spec.training.lora.targets if spec.training.lora else []
    if len(set(targets)) == len(targets):
        return None
    return f"spec.training.lora.targets must not repeat a projection, got {','.join(targets)}"


def _swapped(spec: FineTuneSpec) -> str | None:
    depth = NETWORKS[spec.model.preset].depth
    count = spec.training.lora.blocks_to_swap if spec.training.lora else 0
    if count < depth:
        return None
    return (
        f"spec.training.lora.blocksToSwap must be less than the {depth} blocks of {spec.model.preset} "
        f"(the last one stays in the GPU), got {count}"
    )


def _ca_bundle(spec: FineTuneSpec) -> str | None:
    found = spec.storage.s3.ca_bundle
    if found is None or bool(found.config_map_name) != bool(found.secret_name):
        return None
    count = 2 if found.secret_name else 0
    return f"spec.storage.s3.caBundle must have exactly one of configMapName and secretName, got {count}"


_FRAMES = "self.preprocessing.frames"
_FPS = "self.preprocessing.fps"
_WIDTH = "self.preprocessing.width"
_HEIGHT = "self.preprocessing.height"
_SECONDS = "self.preprocessing.durationSeconds"
_HOLDS = f"int(double({_SECONDS}) * double({_FPS}) + 0.000001)"
_IS_LENGTH = f"({DECIMAL.cel(_SECONDS)} && double({_SECONDS}) > 0.0)"
"""Of what is no number, or no length, the field's own rules speak."""
_SEGMENTS = "self.preprocessing.segments"
_TAKES_FIRST = f"(!has({_SEGMENTS}.select) || {_SEGMENTS}.select == 'First')"
_CA = "self.storage.s3.caBundle"
_CA_MAP, _CA_SECRET = (
    f"(has({_CA}.{name}) && {_CA}.{name} != '')" for name in ("configMapName", "secretName")
)
_BATCH = "self.training.globalBatchSize"
_CONTEXT = "(has(self.training.contextParallel) ? self.training.contextParallel : 1)"
_HEADS = f"(self.model.preset == 'nano' ? {NETWORKS['nano'].heads} : {NETWORKS['mochi-1'].heads})"
_TARGETS = "self.training.lora.targets"
_SWAPPED = "self.training.lora.blocksToSwap"
_DEPTH = f"(self.model.preset == 'nano' ? {NETWORKS['nano'].depth} : {NETWORKS['mochi-1'].depth})"
_GUIDED = "(self.mode == 'lora' && (!has(self.limits) || self.limits == 'Guide'))"
_GPUS = "(has(self.workers.gpusPerPod) && self.workers.gpusPerPod > 1 ? self.workers.gpusPerPod : 1)"
"""Of a pod; one without any trains like one with one."""
_USUAL = f"(self.mode == 'lora' ? {resolved.USUAL_GPUS['lora']} : {resolved.USUAL_GPUS['full']})"
_REPLICAS = f"(has(self.workers.replicas) ? self.workers.replicas : ({_USUAL} + {_GPUS} - 1) / {_GPUS})"

RULES: Sequence[Rule] = (
    one_source("spec.dataset.source", "self.dataset.source", lambda spec: spec.dataset.source),
    one_source("spec.model.source", "self.model.source", lambda spec: spec.model.source),
    Rule(
        path="spec.model.source",
        cel="self.model.preset != 'mochi-1' || has(self.model.source)",
        message="'spec.model.source must be set for preset mochi-1: it names the folder with the published weights'",
        broken=_published_source,
    ),
    outside_dataset("spec.storage.outputURI", "self.storage.outputURI", lambda spec: spec.storage.output_uri),
    outside_dataset("spec.storage.cacheURI", "self.storage.cacheURI", lambda spec: spec.storage.cache_uri),
    Rule(
        path="spec.storage.s3.caBundle",
        cel=f"!has(self.storage.s3) || !has({_CA}) || {_CA_MAP} != {_CA_SECRET}",
        message="'spec.storage.s3.caBundle must have exactly one of configMapName and secretName, got ' + "
        f"({_CA_SECRET} ? '2' : '0')",
        broken=_ca_bundle,
    ),
    Rule(
        path="spec.preprocessing.frames",
        cel=f"{_FRAMES} % 6 == 1",
        message=cel_message(
            "spec.preprocessing.frames must be 1 more than a multiple of 6, got %d; the nearest are %d and %d",
            _FRAMES,
            f"{_FRAMES} - ({_FRAMES} + 5) % 6",
            f"{_FRAMES} - ({_FRAMES} + 5) % 6 + 6",
        ),
        broken=_frame_grid,
    ),
    Rule(
        path="spec.preprocessing.frames",
        cel=f"!{_GUIDED} || {_FRAMES} <= {LORA_FRAMES}",
        message=cel_message(
            f"spec.preprocessing.frames must be at most {LORA_FRAMES} with mode lora and limits Guide "
            "(limits: Memory allows what the GPUs hold), got %d",
            _FRAMES,
        ),
        broken=_lora_frames,
    ),
    Rule(
        path="spec.preprocessing.width",
        cel=f"{_WIDTH} * {_HEIGHT} <= {PIXELS_480P}",
        message=cel_message(
            f"spec.preprocessing.width x height must be at most {PIXELS_480P} pixels (848x480), got %dx%d = %d",
            _WIDTH,
            _HEIGHT,
            f"{_WIDTH} * {_HEIGHT}",
        ),
        broken=_pixels,
    ),
    Rule(
        path="spec.preprocessing.durationSeconds",
        cel=f"!has({_SECONDS}) || !{_IS_LENGTH} || double({_SECONDS}) * double({_FPS}) + 0.000001 >= double({_FRAMES})",
        message=cel_message(
            "spec.preprocessing.durationSeconds must be at least frames / fps = %d / %d s, got %s, which holds %d "
            "frames; the nearest number of frames that fits is %d",
            _FRAMES,
            _FPS,
            _SECONDS,
            _HOLDS,
            f"{_HOLDS} >= 1 ? {_HOLDS} - ({_HOLDS} + 5) % 6 : 0",
        ),
        broken=_duration,
    ),
    Rule(
        path="spec.preprocessing.segments.maxPerClip",
        cel=f"!has({_SEGMENTS}) || !has({_SEGMENTS}.maxPerClip) || {_SEGMENTS}.maxPerClip == 1 || !{_TAKES_FIRST}",
        message=cel_message(
            "spec.preprocessing.segments.maxPerClip must be 1 with select First (Even and Cuts take several), got %d",
            f"{_SEGMENTS}.maxPerClip",
        ),
        broken=_segments,
    ),
    *bucket_rules(guided=_guided, guided_cel=_GUIDED, lora_frames=LORA_FRAMES, pixels=PIXELS_480P),
    Rule(
        path="spec.training.lora",
        cel="self.mode == 'lora' || !has(self.training.lora)",
        message="'spec.training.lora must be left out with mode full, which trains all weights'",
        broken=_lora_only,
    ),
    Rule(
        path="spec.training.ema",
        cel="self.mode == 'full' || !has(self.training.ema)",
        message="'spec.training.ema must be left out with mode lora, which trains no weights of the model'",
        broken=_ema,
    ),
    Rule(
        path="spec.workers.replicas",
        cel=f"!{_GUIDED} || {_REPLICAS} * {_GPUS} == 1",
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
    Rule(
        path="spec.training.warmupSteps",
        cel="!has(self.training.warmupSteps) || self.training.warmupSteps <= self.training.steps",
        message=cel_message(
            "spec.training.warmupSteps must be at most steps = %d, got %d",
            "self.training.steps",
            "self.training.warmupSteps",
        ),
        broken=_warmup,
    ),
    Rule(
        path="spec.training.lora.targets",
        cel=f"!has(self.training.lora) || {_TARGETS}.all(t, {_TARGETS}.exists_one(u, u == t))",
        message=cel_message(
            "spec.training.lora.targets must not repeat a projection, got %s", f"{_TARGETS}.join(',')"
        ),
        broken=_targets,
    ),
    Rule(
        path="spec.training.lora.blocksToSwap",
        cel=f"!has(self.training.lora) || !has({_SWAPPED}) || {_SWAPPED} < {_DEPTH}",
        message=cel_message(
            "spec.training.lora.blocksToSwap must be less than the %d blocks of %s (the last one stays in the GPU), got %d",
            _DEPTH,
            "self.model.preset",
            _SWAPPED,
        ),
        broken=_swapped,
    ),
    *ENV_RULES,
    *SAMPLING_RULES,
)

NAME_RULES: Sequence[tuple[str, str, str]] = (
    (
        f"size(self.metadata.name) <= {NAME_LIMIT}",
        _LONG_NAME,
        cel_message(f"{_LONG_NAME}, got %d", "size(self.metadata.name)"),
    ),
    (NAME.cel("self.metadata.name"), NAME.words, cel_message(f"{NAME.words}, got %s", "self.metadata.name")),
)
"""The rules on the object's name: CEL, message, and the CEL expression of the message with the value."""

IMMUTABLE = (
    "mode",
    "limits",
    "model",
    "dataset",
    "storage",
    "preprocessing",
    "training",
    "sampling",
    "workers",
)
"""Fields of the spec that cannot change; a new object is cheap, since the embeddings are shared."""


def name_problem(name: str) -> str | None:
    """Why `name` cannot name a run, or None; the Python form of `NAME_RULES`."""
    if len(name) > NAME_LIMIT:
        return f"{_LONG_NAME}, got {len(name)}"
    return None if NAME.matches(name) else f"{NAME.words}, got {name}"


def violations(spec: FineTuneSpec) -> list[str]:
    """The messages of all rules that `spec` breaks, in the order of the rules; empty when it obeys them all."""
    return [message for rule in RULES if (message := rule.broken(spec)) is not None]
