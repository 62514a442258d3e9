"""What training reads: cached latents and caption features, in an order that a resumed run continues exactly."""

from mochi_trainer.data.dataset import Dataset
from mochi_trainer.data.embeddings import Latents, Sample, TextFeatures
from mochi_trainer.data.order import batch_indices, sized_indices
from mochi_trainer.data.split import Split, split

__all__ = ["Dataset", "Latents", "Sample", "Split", "TextFeatures", "batch_indices", "sized_indices", "split"]
