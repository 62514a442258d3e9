"""The same model comes out of the published files and out of what Diffusers saves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLMochi, MochiTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from mochi_trainer.errors import MissingObjectError
from mochi_trainer.model import DiT
from mochi_trainer.presets import preset_named
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights import WeightsError, load_decoder, load_dit, load_encoder
from mochi_trainer.weights.contents import contents
from mochi_trainer.weights.diffusers_layout import (
    decoder_table,
    diffusers_layout,
    dit_layout,
    dit_origins,
    encoder_table,
    origins,
)
from mochi_trainer.weights.finding import FilePart, part_files
from tests.trainer.diffusers_files import save_diffusers
from tests.trainer.loading import SMALL, parts, same, state, write_hollow, write_published, write_shards

LOADERS = {"dit": load_dit, "encoder": load_encoder, "decoder": load_decoder}


@pytest.mark.parametrize("part", LOADERS)
def test_the_published_files_come_back_bit_for_bit(tmp_path: Path, part: str) -> None:
    write_published(tmp_path)
    assert same(LOADERS[part](SMALL, tmp_path), state(part))


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "200KB"}, {"variant": "bf16"}])
def test_what_diffusers_saves_comes_back_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    save_diffusers(tmp_path, **options)
    if "max_shard_size" in options:
        assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 3
        assert len(list((tmp_path / "vae").glob("*.safetensors"))) > 3
    for part, load in LOADERS.items():
        assert same(load(SMALL, tmp_path), state(part)), part


def test_published_files_come_before_those_of_diffusers_and_may_have_an_index(tmp_path: Path) -> None:
    save_diffusers(tmp_path)
    other = {name: tensor + 1 for name, tensor in state("dit").items()}
    write_shards(other, tmp_path / "dit", 3)
    assert same(load_dit(SMALL, tmp_path), other)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_type_of_weights_is_brought_to_the_one_asked_for(tmp_path: Path, kind: torch.dtype) -> None:
    tensors = {name: tensor.to(kind) for name, tensor in dit_layout(state("dit"), SMALL.dit.depth).items()}
    (tmp_path / "transformer").mkdir()
    save_file(tensors, tmp_path / "transformer/diffusion_pytorch_model.safetensors")
    for dtype in (torch.bfloat16, torch.float32):
        expected = {
            name: tensor.to(kind).to(torch.float32 if name == "pos_frequencies" else dtype)
            for name, tensor in state("dit").items()
        }
        assert same(load_dit(SMALL, tmp_path, dtype=dtype), expected)


def published_sizes() -> dict[FilePart, nn.Module]:
    mochi = preset_named("mochi-1")
    with torch.device("meta"):
        return {"dit": DiT(mochi.dit), "encoder": Encoder(mochi.encoder), "decoder": Decoder(mochi.decoder)}


def test_at_the_published_sizes_every_tensor_of_diffusers_has_its_place(tmp_path: Path) -> None:
    """Names and shapes only: 10 billion numbers that nobody reads."""
    with torch.device("meta"):
        models = {"transformer": MochiTransformer3DModel(), "vae": AutoencoderKLMochi()}
    for folder, theirs in models.items():
        write_hollow(tmp_path / folder / "diffusion_pytorch_model.safetensors", theirs.state_dict())
    counts = {}
    for part, ours in published_sizes().items():
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()}
        found = contents(part_files(LocalStore(tmp_path), part), shapes, preset_named("mochi-1"))
        counts[part] = len(found.tensors)
        for name, segments in found.segments.items():
            assert sum(segment.numbers for segment in segments) == torch.Size(shapes[name]).numel(), name
    assert counts["dit"] == len(models["transformer"].state_dict())
    assert counts["encoder"] + counts["decoder"] == len(models["vae"].state_dict())


@pytest.mark.parametrize("part", LOADERS)
def test_the_way_back_undoes_the_table_of_names(part: str) -> None:
    """Each segment, cut out of the tensors in Diffusers' layout and joined, is the tensor it came from."""
    tables = {"encoder": encoder_table(SMALL.encoder), "decoder": decoder_table(SMALL.decoder)}
    shapes = {name: tensor.shape for name, tensor in state(part).items()}
    if part == "dit":
        layout, way = dit_layout(state(part), SMALL.dit.depth), dit_origins(shapes, SMALL.dit.depth)
    else:
        layout, way = diffusers_layout(state(part), tables[part]), origins(shapes, tables[part])
    used = 0
    for name, tensor in state(part).items():
        pieces = [layout[s.name].flatten()[s.first : s.first + s.numbers] for s in way[name]]
        assert torch.equal(torch.cat(pieces).view_as(tensor), tensor), name
        used += sum(piece.numel() for piece in pieces)
    assert used == sum(tensor.numel() for tensor in layout.values())


def test_problems_are_told_in_the_names_of_the_file(tmp_path: Path) -> None:
    save_diffusers(tmp_path)
    path = tmp_path / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["transformer_blocks.0.attn1.to_k.weight"]
    tensors["proj_out.bias"] = torch.zeros(5)
    tensors["norm_out.linear.bias"] = tensors["norm_out.linear.bias"].to(torch.int8)
    tensors["stranger"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(WeightsError) as caught:
        load_dit(SMALL, tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"file://{path} does not fit: transformer_blocks.0.attn1.to_k.weight is missing, "
    )
    for problem in (
        "proj_out.bias has shape [5] instead of [48]",
        "norm_out.linear.bias has type I8 instead of one of F64, F32, F16, BF16",
        "stranger is not part of the model",
    ):
        assert problem in message


def test_half_an_autoencoder_does_without_the_other_half_but_not_with_a_stranger(tmp_path: Path) -> None:
    save_diffusers(tmp_path)
    path = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if name.startswith("encoder.")}, path)
    assert same(load_encoder(SMALL, tmp_path), state("encoder"))
    with pytest.raises(WeightsError, match=r"decoder\.\S+ is missing"):
        load_decoder(SMALL, tmp_path)
    save_file({**tensors, "quantizer.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"quantizer.weight is not part of the model"):
        load_encoder(SMALL, tmp_path)


def test_a_part_that_is_in_no_layout_is_named_with_both_names(tmp_path: Path) -> None:
    with pytest.raises(
        MissingObjectError,
        match=r"no encoder in file://\S+: file://\S+/encoder.safetensors does not exist, nor does "
        r"vae/diffusion_pytorch_model.safetensors",
    ):
        load_encoder(SMALL, tmp_path)


def _spoil_index(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "dit.safetensors.index.json"
    document = json.loads(path.read_text())
    document["weight_map"] |= change
    path.write_text(json.dumps(document))


NAME = "final_layer.linear.bias"
SPOILT = {
    "no file": ({NAME: "dit-00009-of-00003.safetensors"}, MissingObjectError, "dit-00009-of-00003.safetensors does not exist"),
    "another file": ({NAME: "dit-00001-of-00003.safetensors"}, WeightsError, f"{NAME} is not in dit-00001-of-00003.safetensors, where the index has it"),
    "outside": ({NAME: "../dit.safetensors"}, WeightsError, "which is no file beside it"),
    "no name": ({NAME: 3}, WeightsError, "is no index of safetensors files"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_an_index_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    change, kind, message = SPOILT[case]
    write_shards(state("dit"), tmp_path / "dit", 3)
    held = json.loads((tmp_path / "dit.safetensors.index.json").read_text())["weight_map"]
    assert held[NAME] != "dit-00001-of-00003.safetensors"
    _spoil_index(tmp_path, change)
    with pytest.raises(kind) as caught:
        load_dit(SMALL, tmp_path)
    assert message in str(caught.value)


def test_an_index_that_is_none_and_a_tensor_in_two_files_are_refused(tmp_path: Path) -> None:
    files = write_shards(state("dit"), tmp_path / "dit", 2)
    save_file({**load_file(files[0]), NAME: state("dit")[NAME]}, files[0])
    save_file({**load_file(files[1]), NAME: state("dit")[NAME]}, files[1])
    with pytest.raises(WeightsError, match=f"{NAME} is in dit-00001-of-00002.safetensors and in dit-00002"):
        load_dit(SMALL, tmp_path)
    (tmp_path / "dit.safetensors.index.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"index.json is no index of safetensors files"):
        load_dit(SMALL, tmp_path)


def test_sizes_of_ones_own_are_as_good_as_a_name() -> None:
    assert dataclasses.replace(SMALL, name="nano") == SMALL
    assert same(load_dit(preset_named("nano")), load_dit("nano").state_dict())
    assert parts()["dit"].params == SMALL.dit
