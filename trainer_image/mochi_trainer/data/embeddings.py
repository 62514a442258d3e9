"""What the stages before left of one clip, and how it is read: latents and caption features in safetensors files."""

from __future__ import annotations

from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mochi_trainer.errors import InvalidInputError, StorageError


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


def latents_in(data: bytes, name: str) -> Latents:
    """The latents in a file's content; `name` is for messages.

    Raises StorageError when it is no safetensors file, InvalidInputError when a tensor is not in it.
    """
    tensors = _tensors(data, name, "mean", "logvar")
    return Latents(mean=tensors["mean"], logvar=tensors["logvar"])


def text_in(data: bytes, name: str) -> TextFeatures:
    """The caption features in a file's content; as `latents_in`."""
    return TextFeatures(features=_tensors(data, name, "features")["features"])


def _tensors(data: bytes, name: str, *wanted: str) -> dict[str, Tensor]:
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise StorageError(f"{name} cannot be read: {error}") from error
    absent = [each for each in wanted if each not in tensors]
    if absent:
        raise InvalidInputError(f"{name} has no tensor {', '.join(absent)}")
    return {each: tensor.float() for each, tensor in tensors.items()}
