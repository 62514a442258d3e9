"""Captions to T5 features."""

from mochi_trainer.text.encoder import MAX_TOKENS, EncodedCaption, TextEncoder
from mochi_trainer.text.tokenizers import Tokenizer, byte_tokenizer, t5_tokenizer

__all__ = ["MAX_TOKENS", "EncodedCaption", "TextEncoder", "Tokenizer", "byte_tokenizer", "t5_tokenizer"]
