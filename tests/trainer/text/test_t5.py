"""T5 as it is published: its vocabulary file, the features of Diffusers' pipeline, and types that do not overflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from diffusers import MochiPipeline
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.text import MAX_TOKENS, TextEncoder, t5_tokenizer
from tests.trainer.numerics import difference, seeded

CAPTIONS = [
    "a white bus slides along the street",
    "The operator cuts the clips, embeds them, and trains a LoRA; it's real: 100 %.",
    "ünïcode, tabs\tand  double spaces",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """A vocabulary as google/t5-v1_1-xxl brings it: `spiece.model` and a small configuration, no `tokenizer.json`."""
    folder = tmp_path_factory.mktemp("t5")
    corpus = folder / "corpus.txt"
    corpus.write_text((project / "README.md").read_text() + (project / "LICENSE").read_text())
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=300,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    corpus.unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100})
    )
    return folder


def config() -> T5Config:
    return T5Config(
        vocab_size=512,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )


def test_the_published_vocabulary_file_gives_the_tokens_of_sentencepiece(folder: Path) -> None:
    tokenize = t5_tokenizer(folder)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    for caption in CAPTIONS:
        assert tokenize(caption) == [*reference.encode(caption), 1]
    assert len(tokenize("street " * 400)) > MAX_TOKENS


def features_of_diffusers(model: T5EncoderModel, folder: Path, captions: list[str]) -> tuple[Tensor, Tensor]:
    pipeline = MochiPipeline(
        scheduler=None, vae=None, text_encoder=model, tokenizer=T5TokenizerFast.from_pretrained(folder), transformer=None
    )  # fmt: skip
    features, mask, _, _ = pipeline.encode_prompt(
        captions, do_classifier_free_guidance=False, device=torch.device("cpu")
    )
    return features, mask


@pytest.mark.filterwarnings("ignore")
def test_features_are_those_of_the_pipeline_of_diffusers(folder: Path) -> None:
    model = seeded(T5EncoderModel(config()), dtype=torch.float32)
    long = "a white bus slides along the street " * 40
    ours = TextEncoder(model, t5_tokenizer(folder)).encode([*CAPTIONS, long])
    theirs, mask = features_of_diffusers(model, folder, [*CAPTIONS, long])
    assert [each.count for each in ours] == mask.sum(dim=1).tolist()
    assert ours[-1].truncated
    for each, row in zip(ours, theirs, strict=True):
        assert difference(each.features, row[: each.count]) <= 2e-6


def loud(dtype: torch.dtype) -> T5EncoderModel:
    """An encoder whose feed-forward makes numbers of about 1e6, above float16's 65504."""
    model = seeded(T5EncoderModel(config()), dtype=torch.float32)
    with torch.no_grad():
        for block in model.encoder.block:
            feed = block.layer[-1].DenseReluDense
            feed.wi_0.weight *= 300
            feed.wi_1.weight *= 300
    for module in model.modules():
        module._keep_in_fp32_modules = None
    return model.to(dtype)


def test_float16_overflows_where_bfloat16_and_float32_do_not_and_it_is_told(folder: Path) -> None:
    tokenizer = t5_tokenizer(folder)
    exact = TextEncoder(loud(torch.float32), tokenizer).encode(CAPTIONS)
    near = TextEncoder(loud(torch.bfloat16), tokenizer).encode(CAPTIONS)
    for one, other in zip(exact, near, strict=True):
        assert difference(other.features.float(), one.features) <= 0.1
    with pytest.raises(InvalidInputError, match=r"not finite in torch\.float16 for the caption 'a white bus"):
        TextEncoder(loud(torch.float16), tokenizer).encode(CAPTIONS)
