"""The embeddings of a run's clips: verified local copies of what the captions and videos stages stored."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mochi_api import layout
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.storage import Manifest, Store, get_entry, open_store, read_manifest

log = logging.getLogger(__name__)

EMPTY_PROMPT = "_empty.safetensors"
"""Features of the empty prompt, in the directory of the captions stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latents:
    """Posterior of one clip under the VAE, not normalised: float32 (12, T, H, W) each."""

    mean: Tensor
    logvar: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFeatures:
    """Features of one caption without padding: (count, width), at most 256 tokens; count 0 is the empty prompt."""

    features: Tensor

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.features.shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One clip of the dataset."""

    clip: str
    """Name of the clip."""
    latents: Latents
    text: TextFeatures


class Dataset:
    """The clips that have both latents and caption features, by name; use it in a `with` block or call `close`."""

    def __init__(self, folder: Path, clips: Sequence[str], captions: Sequence[str]) -> None:
        self._folder = folder
        self._owned: tempfile.TemporaryDirectory[str] | None = None
        self.clips = tuple(clips)
        """Names, in order; an index means this order."""
        self.captions = tuple(captions)
        """Captions, in the same order."""

    @classmethod
    def open(cls, run: RunFile, *, folder: Path | None = None) -> Dataset:
        """Download and check everything below `folder` (a temporary one when None).

        Raises MissingObjectError when a stage is not complete, StorageError when an object is not what was stored,
        InvalidInputError when a key is not set or no clip is left.
        """
        owned = tempfile.TemporaryDirectory(prefix="mochi-dataset-") if folder is None else None
        root = Path(owned.name) if owned is not None else folder
        assert root is not None
        try:
            dataset = cls._fetched(run, root)
        except BaseException:
            if owned is not None:
                owned.cleanup()
            raise
        dataset._owned = owned
        return dataset

    @classmethod
    def _fetched(cls, run: RunFile, root: Path) -> Dataset:
        store = open_store(run.locations.cache, run.s3)
        videos = _stage_manifest(store, "videos", run.keys.videos)
        captions = _stage_manifest(store, "captions", run.keys.captions)
        texts: dict[str, str] = captions.details["captions"]
        clips = sorted(set(videos.details["clips"]) & set(texts))
        if not clips:
            raise InvalidInputError(f"no clip has both latents and caption features in {store.address()}")
        for clip in clips:
            get_entry(store, videos, f"{clip}.safetensors", root / "videos" / f"{clip}.safetensors")
            get_entry(store, captions, f"{clip}.safetensors", root / "captions" / f"{clip}.safetensors")
        get_entry(store, captions, EMPTY_PROMPT, root / "captions" / EMPTY_PROMPT)
        log.info("dataset: %d clips from %s", len(clips), store.address())
        return cls(root, clips, [texts[clip] for clip in clips])

    def __len__(self) -> int:
        return len(self.clips)

    def sample(self, index: int) -> Sample:
        """Latents and caption features of one clip, on the CPU."""
        clip = self.clips[index]
        tensors = _tensors(self._folder / "videos" / f"{clip}.safetensors", "mean", "logvar")
        return Sample(
            clip=clip,
            latents=Latents(mean=tensors["mean"], logvar=tensors["logvar"]),
            text=self._text(f"{clip}.safetensors"),
        )

    def empty_text(self) -> TextFeatures:
        """Features of the empty prompt, which caption dropout and guidance use."""
        return self._text(EMPTY_PROMPT)

    def close(self) -> None:
        """Remove the local copies if this object made their folder."""
        if self._owned is not None:
            self._owned.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _text(self, name: str) -> TextFeatures:
        return TextFeatures(features=_tensors(self._folder / "captions" / name, "features")["features"])


def _stage_manifest(store: Store, stage: str, key: str) -> Manifest:
    if not key:
        raise InvalidInputError(
            f"keys.{stage} of the run file must name the output of the stage {stage}, got ''"
        )
    try:
        return read_manifest(store, layout.cache_entry("", stage, key))
    except MissingObjectError as error:
        raise MissingObjectError(f"output of the stage {stage} is not complete: {error}") from error


def _tensors(path: Path, *names: str) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path.name} cannot be read: {error}") from error
    absent = [name for name in names if name not in tensors]
    if absent:
        raise InvalidInputError(f"{path.name} has no tensor {', '.join(absent)}")
    return {name: tensor.float() for name, tensor in tensors.items()}
