"""The asymmetric diffusion transformer of Mochi-1: parameters under the published names, tensors in, tensors out."""

from mochi_trainer.model.dit import DiT
from mochi_trainer.model.params import DiTParams

__all__ = ["DiT", "DiTParams"]
