"""The T5 encoder with its tokenizer: captions to un-padded features.

Shapes: B captions, L tokens, K width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import T5EncoderModel

MAX_TOKENS = 256
"""Tokens the transformer was trained with; a longer caption loses its end."""

PADDING_ID = 0

ROWS = 8
LENGTH_STEP = 16
"""Every batch has so many rows, of a length that is a multiple of this: what a caption gives does not depend on its company."""


@dataclass(frozen=True, slots=True)
class EncodedCaption:
    """The features of one caption."""

    features: Tensor
    """(count, K), without padding."""

    count: int
    """Tokens used; 0 for the empty prompt."""

    tokens: int
    """Tokens of the whole caption, its end token included."""

    @property
    def truncated(self) -> bool:
        """Whether the caption had more than `MAX_TOKENS` tokens, so that its end was cut off."""
        return self.tokens > self.count


class TextEncoder:
    """Runs a T5 encoder; holds no gradient."""

    def __init__(self, model: T5EncoderModel, tokenizer: Tokenizer) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(False)
        self.tokenizer = tokenizer

    @property
    def width(self) -> int:
        """Width of the features (K)."""
        return int(self.model.config.d_model)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[EncodedCaption]:
        """The features of each caption, in the order given and in the model's type and device.

        Surrounding white space is dropped. The empty caption has no token at all: it is the prompt that guidance and
        caption dropout call empty, and the model is not asked for it. Raises InvalidInputError when the features of a
        caption are not finite: T5 in a type of too small a range, or broken weights.
        """
        ids = [self.tokenizer(text) if (text := caption.strip()) else [] for caption in captions]
        kept = [
            tokens[: MAX_TOKENS - 1] + tokens[-1:] if len(tokens) > MAX_TOKENS else tokens for tokens in ids
        ]
        features = iter(self._features([tokens for tokens in kept if tokens]))
        empty = torch.empty(0, self.width, dtype=self.model.dtype, device=self.model.device)
        return [
            EncodedCaption(_finite(next(features), text) if cut else empty, len(cut), len(whole))
            for text, cut, whole in zip(captions, kept, ids, strict=True)
        ]

    def _features(self, captions: Sequence[list[int]]) -> list[Tensor]:
        """Features of each, in the order given; captions of about one length are computed together."""
        found: dict[int, Tensor] = {}
        lengths = [LENGTH_STEP * -(-len(tokens) // LENGTH_STEP) for tokens in captions]
        for length in sorted(set(lengths)):
            alike = [index for index, its in enumerate(lengths) if its == length]
            for start in range(0, len(alike), ROWS):
                batch = alike[start : start + ROWS]
                rows = self._batch([captions[index] for index in batch], length)
                found |= dict(zip(batch, rows, strict=True))
        return [found[index] for index in range(len(captions))]

    def _batch(self, batch: Sequence[list[int]], length: int) -> list[Tensor]:
        """Features of at most `ROWS` captions, padded to `length`; rows that are missing repeat the first."""
        rows = [*batch, *[batch[0]] * (ROWS - len(batch))]
        device = self.model.device
        ids_BL = torch.tensor(
            [tokens + [PADDING_ID] * (length - len(tokens)) for tokens in rows], device=device
        )
        mask_BL = torch.tensor(
            [[1] * len(tokens) + [0] * (length - len(tokens)) for tokens in rows], device=device
        )
        features_BLK = self.model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return [row[: len(tokens)].clone() for row, tokens in zip(features_BLK, batch, strict=False)]


def _finite(features_LK: Tensor, caption: str) -> Tensor:
    if not bool(features_LK.isfinite().all()):
        raise InvalidInputError(
            f"the text encoder gives features that are not finite in {features_LK.dtype} for the caption {caption!r:.60}: "
            "its weights are broken, or their type cannot hold what it computes"
        )
    return features_LK
