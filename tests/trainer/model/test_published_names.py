"""Names and shapes of the published checkpoints, against ours on the meta device."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.vae import Decoder, DecoderParams, Encoder, EncoderParams

PUBLISHED = json.loads((Path(__file__).parent / "published_shapes.json").read_text())
MODELS = {
    "dit": (lambda: DiT(DiTParams()), 879, 10_027_677_744),
    "encoder": (lambda: Encoder(EncoderParams()), 243, 97_222_016),
    "decoder": (lambda: Decoder(DecoderParams()), 162, 362_526_595),
}


def expanded(part: str) -> dict[str, list[int]]:
    """The compact list written out: `{a-b}` in a name stands for every number from a to b."""
    shapes: dict[str, list[int]] = {}
    for pattern, shape in PUBLISHED[part].items():
        before, brace, rest = pattern.partition("{")
        if not brace:
            shapes[pattern] = shape
            continue
        numbers, after = rest.split("}", 1)
        first, last = (int(number) for number in numbers.split("-"))
        shapes |= {f"{before}{number}{after}": shape for number in range(first, last + 1)}
    return shapes


@pytest.mark.parametrize("part", MODELS)
def test_our_names_and_shapes_are_the_published_ones(part: str) -> None:
    build, tensors, parameters = MODELS[part]
    with torch.device("meta"):
        model: nn.Module = build()
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == expanded(part)
    assert len(ours) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_compact_list_is_the_one_that_was_taken_from_the_published_files() -> None:
    whole = {part: dict(sorted(expanded(part).items())) for part in sorted(MODELS)}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    assert digest == "9ce5fa409c11d3647c965c4d55783bb665bd7a9e41f7d834a9df91a5fcfd9dd0"
