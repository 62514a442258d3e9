"""The run file: the one document the operator hands to each pod, mounted at `RUN_FILE_PATH`.

It is immutable and carries no secrets; S3 credentials come through the environment. The same file works by hand:
`python -m mochi_trainer train --run run.yaml`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationError

from mochi_api.base import ApiModel
from mochi_api.spec import DatasetSpec, Mode, ModelSpec, PreprocessingSpec, S3Spec, SamplingSpec, TrainingSpec

RUN_FILE_PATH = "/etc/mochi/run.yaml"
SCHEMA_VERSION = 1
Stage = Literal["trim", "captions", "videos", "train", "sample"]
PREPROCESSING: tuple[Stage, ...] = ("trim", "captions", "videos")
STAGES: tuple[Stage, ...] = (*PREPROCESSING, "train", "sample")

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
    """With warm-up, batch size and adapter filled in."""
    sampling: SamplingSpec
    s3: S3Spec
    locations: Locations
    keys: CacheKeys = Field(default_factory=CacheKeys)
    world: World = Field(default_factory=World)

    def to_yaml(self) -> str:
        """The document, keys in the order of the fields."""
        return yaml.safe_dump(self.to_wire(), sort_keys=False, allow_unicode=True)


def parse(text: str) -> RunFile:
    """Read a run file; raise RunFileError with every field that is wrong."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RunFileError(f"the run file is not YAML: {error}") from error
    try:
        return RunFile.model_validate(raw)
    except ValidationError as error:
        raise RunFileError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """All problems of a validation error on one line: field, what is wrong, value."""
    parts = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"]) or "document"
        parts.append(f"{path}: {problem['msg'].lower()}, got {problem['input']!r:.80}")
    return "; ".join(parts)
