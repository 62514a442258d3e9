"""Captions to features."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Vocabulary
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from mochi_trainer.text import MAX_TOKENS, TextEncoder, byte_tokenizer, t5_tokenizer
from mochi_trainer.weights import load_text_encoder
from tests.trainer.numerics import seeded


@functools.cache
def encoder() -> TextEncoder:
    config = T5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return TextEncoder(seeded(T5EncoderModel(config), dtype=torch.float32), byte_tokenizer())


def test_features_are_as_long_as_the_caption_and_its_end_token() -> None:
    short, long = encoder().encode(["ab", "a longer caption"])
    assert (short.features.shape, short.count, short.truncated) == ((3, 32), 3, False)
    assert (long.features.shape, long.count, long.truncated) == ((17, 32), 17, False)


def test_a_caption_has_the_same_features_alone_and_beside_a_longer_one() -> None:
    together = encoder().encode(["a red circle", "a blue square moves right over a grey ground"])[0]
    alone = encoder().encode(["a red circle"])[0]
    assert torch.equal(together.features, alone.features)


def test_features_depend_on_no_order_and_no_company() -> None:
    """Bit for bit: a stage that was killed and goes on forms other batches than one that was not."""
    captions = [f"caption {'word ' * (number % 23)}{number}" for number in range(40)]
    whole = dict(zip(captions, encoder().encode(captions), strict=True))
    parts = [captions[::-1][:13], captions[::3], captions[5:6], captions[20:]]
    for part in parts:
        for caption, found in zip(part, encoder().encode(part), strict=True):
            assert torch.equal(found.features, whole[caption].features)


@pytest.mark.parametrize("caption", ["", "  \n"])
def test_the_empty_caption_has_no_token(caption: str) -> None:
    empty, other = encoder().encode([caption, "x"])
    assert (empty.features.shape, empty.count, empty.truncated) == ((0, 32), 0, False)
    assert other.count == 2


def test_a_caption_above_the_limit_is_cut_keeps_its_end_token_and_says_so() -> None:
    at, above = encoder().encode(["x" * (MAX_TOKENS - 1), "x" * MAX_TOKENS])
    assert (at.count, at.truncated) == (MAX_TOKENS, False)
    assert (above.count, above.truncated) == (MAX_TOKENS, True)
    torch.testing.assert_close(above.features, at.features)


def test_bytes_beyond_ascii_are_tokens() -> None:
    tokens = byte_tokenizer()("ü")
    assert (len(tokens), tokens[-1]) == (3, 1)


def test_no_gradient_is_kept() -> None:
    assert not encoder().encode(["x"])[0].features.requires_grad
    assert not any(parameter.requires_grad for parameter in encoder().model.parameters())


def test_a_saved_vocabulary_is_read_and_long_captions_are_not_cut_by_it(tmp_path: Path) -> None:
    vocabulary = Vocabulary(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "cat": 3}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = Whitespace()
    vocabulary.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=vocabulary,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=4,
    ).save_pretrained(tmp_path)
    tokenize = t5_tokenizer(tmp_path)
    assert tokenize("cat dog") == [3, 2, 1]
    assert len(tokenize("cat " * 9)) == 10


def test_float16_is_refused_because_t5_overflows_in_it() -> None:
    with pytest.raises(Exception, match="float32 or bfloat16, got float16"):
        load_text_encoder("nano", dtype=torch.float16)
