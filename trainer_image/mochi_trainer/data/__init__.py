"""What training reads: cached latents and caption features, in an order that a resumed run continues exactly."""

from mochi_trainer.data.dataset import Dataset
from mochi_trainer.data.embeddings import Latents, Sample, TextFeatures
from mochi_trainer.data.order import batch_indices

__all__ = ["Dataset", "Latents", "Sample", "TextFeatures", "batch_indices"]
