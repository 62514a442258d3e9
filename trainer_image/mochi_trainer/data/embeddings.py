"""What the stages before left of one clip, and how it is read: latents and caption features in safetensors files."""

from __future__ import annotations

from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mochi_trainer.errors import InvalidInputError, StorageError
from mochi_trainer.model import DiTParams


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


_ANEW = "name outputs of stages that ran with this preset (keys of the run file), or make them anew with preprocessing.cachePolicy: Refresh"


def latents_in(data: bytes, name: str, params: DiTParams) -> Latents:
    """The latents in a file's content, for a transformer of these sizes; `name` is for messages.

    Raises StorageError when it is no safetensors file, InvalidInputError when a tensor is not in it, or of another shape.
    """
    tensors = _tensors(data, name, "mean", "logvar")
    mean, logvar = tensors["mean"], tensors["logvar"]
    channels, patch = params.latent_channels, params.patch
    if mean.ndim != 4 or not mean.numel() or len(mean) != channels or any(n % patch for n in mean.shape[2:]):
        raise InvalidInputError(
            f"{name}: mean must have {channels} channels, frames, and rows and columns that are multiples of {patch}, "
            f"got {list(mean.shape)}",
            action=_ANEW,
        )
    if logvar.shape != mean.shape:
        raise InvalidInputError(
            f"{name}: logvar must have the shape of mean, {list(mean.shape)}, got {list(logvar.shape)}",
            action=_ANEW,
        )
    return Latents(mean=mean, logvar=logvar)


def text_in(data: bytes, name: str, params: DiTParams) -> TextFeatures:
    """The caption features in a file's content; as `latents_in`."""
    features, width = _tensors(data, name, "features")["features"], params.text_feature_width
    if features.ndim != 2 or features.shape[1] != width:
        raise InvalidInputError(
            f"{name}: features must have {width} numbers a token, got {list(features.shape)}", action=_ANEW
        )
    return TextFeatures(features=features)


def _tensors(data: bytes, name: str, *wanted: str) -> dict[str, Tensor]:
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise StorageError(f"{name} cannot be read: {error}") from error
    absent = [each for each in wanted if each not in tensors]
    if absent:
        raise InvalidInputError(f"{name} has no tensor {', '.join(absent)}")
    return {each: tensor.float() for each, tensor in tensors.items()}
