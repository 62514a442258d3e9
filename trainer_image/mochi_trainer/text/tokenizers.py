"""Caption to token ids, with the end-of-text token: T5's own vocabulary, or plain bytes for `nano`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Tokenizer = Callable[[str], list[int]]
"""One caption to all of its token ids, not cut, not padded; the last one ends the text."""


def byte_tokenizer() -> Tokenizer:
    """UTF-8 bytes (ByT5), which needs no vocabulary file."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    return lambda caption: list(tokenizer(caption)["input_ids"])


def t5_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder` (`tokenizer.json` or `spiece.model`); OSError when it holds none."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return lambda caption: list(tokenizer(caption, truncation=False, verbose=False)["input_ids"])
