"""The run file: the one document the operator hands to each pod, mounted at `RUN_FILE_PATH`.

It is immutable and carries no secrets; S3 credentials come through the environment, and as files that are renewed. The same file works by hand:
`python -m mochi_trainer train --run run.yaml`.
"""

from __future__ import annotations

import reprlib
from decimal import Decimal
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from mochi_api.base import REFUSED, ApiModel
from mochi_api.spec import DatasetSpec, Mode, ModelSpec, PreprocessingSpec, S3Spec, SamplingSpec, TrainingSpec

RUN_FILE_PATH = "/etc/mochi/run.yaml"
SCHEMA_VERSION = 1
DEFAULTS_FILE = "defaults"
"""Beside a mounted run file: the number of `DEFAULTS` of the operator that wrote it, 0 without. Not a field, which images of before
would refuse."""
DEFAULTS = 1
"""Which fields do something although they are left out, as their operator knew:

1. `training.validation.clips`: some of 20 clips and more are held out. An operator that did not know it meant that none are.
"""
LEARNING_RATE_LEFT_OUT = Decimal("0.0002")
"""What a run file means that names no learning rate, in either mode: operators once had this one default and left it out."""
Stage = Literal["check", "trim", "captions", "videos", "train", "sample", "preview"]
PREPROCESSING: tuple[Stage, ...] = ("trim", "captions", "videos")
STAGES: tuple[Stage, ...] = ("check", *PREPROCESSING, "train", "sample")
"""One after the other."""
PREVIEW: Stage = "preview"
"""Samples during the training, as often as they are asked for, beside it."""

Address = Annotated[str, Field(max_length=2048, pattern=r"^(s3|file)://")]
"""`s3://bucket/prefix`, or `file:///path` for a mounted volume."""


class RunFileError(ValueError):
    """The run file cannot be used; the message names the field."""


class Identity(ApiModel):
    """Whose run this is."""

    namespace: str
    name: str
    uid: str
    attempt: int = Field(default=1, ge=1)


class Locations(ApiModel):
    """Where the pod reads and writes."""

    dataset: Address
    model: Address | None = None
    """Folder with the weights; None takes those in the image (nano)."""
    cache: Address
    run: Address


class CacheKeys(ApiModel):
    """Keys of the stages that are done; a stage finds its input by them."""

    trim: str = ""
    captions: str = ""
    videos: str = ""


class World(ApiModel):
    """Training pods and their GPUs."""

    replicas: int = Field(default=1, ge=1)
    gpus_per_pod: int = Field(default=0, ge=0)
    grace_period_seconds: int = Field(default=180, ge=1)
    """Between the signal that stops a training pod and its end."""

    @property
    def processes(self) -> int:
        """Training processes of all pods together: one for each GPU, or one for each pod without any."""
        return self.replicas * max(1, self.gpus_per_pod)


class RunFile(ApiModel):
    """Everything a pod needs to know."""

    schema_version: Literal[1] = 1
    stage: Stage
    run: Identity
    mode: Mode
    model: ModelSpec
    dataset: DatasetSpec
    preprocessing: PreprocessingSpec
    training: TrainingSpec
    """With learning rate, warm-up, batch size and adapter filled in."""
    sampling: SamplingSpec
    s3: S3Spec
    locations: Locations
    keys: CacheKeys = Field(default_factory=CacheKeys)
    world: World = Field(default_factory=World)

    @field_validator("training", mode="after")
    @classmethod
    def _learning_rate(cls, training: TrainingSpec) -> TrainingSpec:
        if training.learning_rate is not None:
            return training
        return training.model_copy(update={"learning_rate": LEARNING_RATE_LEFT_OUT})

    def to_yaml(self) -> str:
        """The document, keys in the order of the fields.

        What equals its default is left out, so that an image of another version, which fills in the same defaults,
        need not know the field. Within one `schemaVersion` a default never changes.
        """
        wire = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        return yaml.safe_dump({"schemaVersion": SCHEMA_VERSION, **wire}, sort_keys=False, allow_unicode=True)


ASKED = ("mode", "model", "dataset", "preprocessing", "training", "sampling", "s3")
"""Sections that carry what the user asked for: a field of them is never ignored, since it is there only when it matters."""


def parse(text: str, *, strict: bool = True, defaults: int = DEFAULTS) -> RunFile:
    """Read a run file; raise RunFileError with every field that is wrong.

    `defaults` is the number that its operator left beside it: what a field means that it left out, since it did not know it.

    `strict`, for a file given by hand, refuses every unknown field. Without it, for a file that an operator of another
    version wrote, unknown fields are ignored, but for what the user asked of the model: an image that does not know it
    would do something else.
    """
    try:
        raw = yaml_of(text)
    except ValueError as error:
        raise RunFileError(f"the run file is not YAML: {error}") from error
    if isinstance(raw, dict) and "apiVersion" in raw:
        raise RunFileError(
            f"this is a {_shown(raw.get('kind'))} of Kubernetes and no run file: apply it with kubectl"
        )
    try:
        run = RunFile.model_validate(raw)
    except ValidationError as error:
        raise RunFileError(explain(error)) from error
    unknown = [place for place in _unknown(raw) if strict or place[0] in ASKED]
    if unknown and strict:
        raise RunFileError("; ".join(f"{'.'.join(place)}: there is no such field" for place in unknown))
    if unknown:
        fields = ", ".join(f"spec.{'.'.join(place)}" for place in unknown)
        raise RunFileError(
            f"the image of this run does not know {fields}: name an image in workers.image that does, or leave it out"
        )
    return run if defaults >= DEFAULTS else _as_before(run)


def _as_before(run: RunFile) -> RunFile:
    """The run file of an operator that knew of no clips held out."""
    validation = run.training.validation
    if validation.clips is not None:
        return run
    none = validation.model_copy(update={"clips": 0})
    return run.model_copy(update={"training": run.training.model_copy(update={"validation": none})})


def _unknown(raw: object) -> list[tuple[str, ...]]:
    """Places of the fields that no type here has."""
    try:
        RunFile.model_validate(raw, extra="forbid")
    except ValidationError as error:
        return [
            tuple(map(str, problem["loc"]))
            for problem in error.errors()
            if problem["type"] == "extra_forbidden"
        ]
    return []


def yaml_of(text: str) -> object:
    """What one document of YAML says. Raises ValueError, whatever it is that PyYAML cannot read."""
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # !!bool x, 2026-13-01
        raise ValueError(str(error)) from error


def explain(error: ValidationError) -> str:
    """All problems of a validation error on one line: field, what is wrong, value."""
    parts = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"]) or "document"
        if problem["type"] == REFUSED:
            parts.append(f"{path} {problem['msg']}")
        else:
            parts.append(f"{path}: {problem['msg'].lower()}, got {_shown(problem['input'])}")
    return "; ".join(parts)


_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 80
_SHOWN.maxlevel = 3


def _shown(value: object) -> str:
    """The beginning of a value, which may refer to itself again and again (aliases of YAML)."""
    try:
        return f"{value!r:.80}" if isinstance(value, str) else f"{_SHOWN.repr(value):.80}"
    except ValueError:  # Python writes no number of thousands of digits
        return "a number too large to be shown"
