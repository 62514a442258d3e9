"""What the operator makes of a spec: every value that the user may leave open is decided here, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, NamedTuple

from mochi_api.sizes import Bucket
from mochi_api.spec import FineTuneSpec, LoraSpec, Mode, PreprocessingSpec, SegmentsSpec, TrainingSpec

USUAL_GPUS: Mapping[Mode, int] = {"lora": 1, "full": 8}
"""GPUs of all training pods when the spec names no number of pods: so many pods of one GPU, or fewer of several."""

USUAL_LEARNING_RATE: Mapping[Mode, Decimal] = {"lora": Decimal("0.0002"), "full": Decimal("0.00001")}
"""Peak learning rate when the spec names none. LoRA: the published recipe for Mochi-1. Full: a twentieth of it, since
every weight moves, and not only an adapter that starts at nothing; a usual value, which we have not measured at 10 B."""

USUAL_SEGMENTS = 4
"""Segments of a clip at most when the spec takes several and names no number."""


class Segments(NamedTuple):
    """Which parts of a clip are taken, and how many at most."""

    select: Literal["First", "Even", "Cuts"]
    most: int


class Gpus(NamedTuple):
    """GPUs of one pod of each kind."""

    captions: int
    videos: int
    training: int
    sampling: int


def replicas(spec: FineTuneSpec) -> int:
    """Number of training pods; when the spec names none the fewest that have the usual number of GPUs."""
    return spec.workers.replicas or -(-USUAL_GPUS[spec.mode] // max(1, spec.workers.gpus_per_pod or 1))


def processes(spec: FineTuneSpec) -> int:
    """Training processes of all pods together: one for each GPU, or one for each pod without any."""
    return replicas(spec) * max(1, gpus(spec).training)


def clips_at_once(spec: FineTuneSpec) -> int:
    """Clips that are trained on at the same time: one for each process, or for each set of them that shares its tokens."""
    return max(1, processes(spec) // spec.training.context_parallel)


def gpus(spec: FineTuneSpec) -> Gpus:
    """GPUs of each kind of pod: one for the published model and none for nano, unless the spec says otherwise."""
    usual = 0 if spec.model.preset == "nano" else 1

    def chosen(value: int | None) -> int:
        return usual if value is None else value

    return Gpus(
        captions=chosen(spec.preprocessing.captions.gpus),
        videos=chosen(spec.preprocessing.videos.gpus),
        training=chosen(spec.workers.gpus_per_pod),
        sampling=chosen(spec.sampling.gpus),
    )


def shards(section: PreprocessingSpec, stage: str) -> int:
    """Pods that share the work of a stage; one for all but those of preprocessing."""
    asked = {
        "trim": section.trim.shards,
        "captions": section.captions.shards,
        "videos": section.videos.shards,
    }
    return asked.get(stage, 1)


def buckets(section: PreprocessingSpec) -> tuple[Bucket, ...]:
    """The sizes of the training clips: the section's own one first."""
    own = Bucket(section.frames, section.width, section.height)
    return (own, *(Bucket(each.frames, each.width, each.height) for each in section.buckets))


def buckets_of_clips(section: PreprocessingSpec) -> tuple[Bucket, ...]:
    """The sizes of clips that move; there is at least one."""
    return tuple(bucket for bucket in buckets(section) if bucket.frames > 1)


def buckets_of_stills(section: PreprocessingSpec) -> tuple[Bucket, ...]:
    """The sizes of still images; without one there are none."""
    return tuple(bucket for bucket in buckets(section) if bucket.frames == 1)


def segments(section: PreprocessingSpec) -> Segments:
    """The parts of each clip that become training clips."""
    asked = section.segments or SegmentsSpec()
    if asked.select == "First":
        return Segments("First", 1)
    return Segments(asked.select, asked.max_per_clip or USUAL_SEGMENTS)


def training(spec: FineTuneSpec) -> TrainingSpec:
    """The training section with learning rate, warm-up, batch size and adapter filled in."""
    section = spec.training
    warmup = min(200, section.steps // 10) if section.warmup_steps is None else section.warmup_steps
    lora = (section.lora or LoraSpec()) if spec.mode == "lora" else None
    return section.model_copy(
        update={
            "learning_rate": section.learning_rate or USUAL_LEARNING_RATE[spec.mode],
            "warmup_steps": warmup,
            "global_batch_size": section.global_batch_size or clips_at_once(spec),
            "lora": lora,
        }
    )


MOST_HELD_OUT = 8
"""Clips that are held out unasked at most: each costs four forward passes an evaluation."""
LEAST_LEVELS = 4
"""Noise levels at which a clip is evaluated at least, one in the middle of each quarter."""


def usually_held_out(training: TrainingSpec) -> int:
    """Clips that are held out, at most where nothing is said: fewer clips have fewer."""
    asked = training.validation.clips
    return MOST_HELD_OUT if asked is None else asked


def levels_a_clip(held_out: int) -> int:
    """Noise levels, each a forward pass, at which each of so many held out clips is evaluated.

    Few clips have more, as long as all together cost no more than the usual eight do: 32 passes.
    """
    return LEAST_LEVELS * max(1, MOST_HELD_OUT // max(1, held_out))
