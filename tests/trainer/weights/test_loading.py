"""Loading by name, strictly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.vae import normalise
from mochi_trainer.weights import (
    WeightsError,
    identity,
    load_decoder,
    load_dit,
    load_encoder,
    load_text_encoder,
    load_weights,
)
from tests.trainer.numerics import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the weights of nano that a test may spoil."""
    return Path(shutil.copytree(NANO_FOLDER, tmp_path / "nano"))


def change(folder: Path, **tensors: Tensor | None) -> None:
    state = load_file(folder / "dit.safetensors") | tensors
    save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None}, folder / "dit.safetensors"
    )


def test_nano_goes_the_whole_way_from_video_to_video() -> None:
    preset = preset_named("nano")
    video = draw(1, 3, 7, 32, 48, dtype=torch.float32).tanh()
    caption = load_text_encoder("nano").encode(["a red circle moves right over a black ground"])[0]
    with torch.no_grad():
        z = normalise(load_encoder("nano")(video).mean, preset.latents)
        velocity = load_dit("nano")(z, torch.tensor([0.5]), caption.features[None])
        out = load_decoder("nano")(z)
    assert (velocity.shape, out.shape) == (z.shape, video.shape)
    assert all(tensor.isfinite().all() for tensor in (velocity, out))


def test_nano_is_small() -> None:
    assert sum(path.stat().st_size for path in NANO_FOLDER.rglob("*") if path.is_file()) <= 10_000_000


def test_position_frequencies_stay_in_float32() -> None:
    model = load_dit("nano", dtype=torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds.pop("pos_frequencies") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}


def test_only_the_transformer_can_be_trained() -> None:
    assert all(parameter.requires_grad for parameter in load_dit("nano").parameters())
    assert not any(parameter.requires_grad for parameter in load_encoder("nano").parameters())
    assert not any(parameter.requires_grad for parameter in load_decoder("nano").parameters())


def test_no_weight_of_the_last_layer_is_zero_so_that_gradients_reach_an_adapter() -> None:
    model = load_dit("nano")
    assert float((model.final_layer.linear.weight == 0).float().mean()) < 0.01


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, **{"blocks.1.attn.proj_x.weight": None})
    with pytest.raises(
        WeightsError, match=r"dit.safetensors does not fit: blocks.1.attn.proj_x.weight is missing$"
    ):
        load_dit("nano", folder)


def test_an_extra_tensor_is_named(folder: Path) -> None:
    change(folder, stranger=torch.zeros(1))
    with pytest.raises(WeightsError, match=r"stranger is not part of the model$"):
        load_dit("nano", folder)


def test_a_wrong_shape_is_named(folder: Path) -> None:
    change(folder, pos_frequencies=torch.zeros(3, 4, 15))
    with pytest.raises(WeightsError, match=r"pos_frequencies has shape \[3, 4, 15\] instead of \[3, 4, 24\]"):
        load_dit("nano", folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "dit.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"dit.safetensors is truncated: it has \d+ bytes"):
        load_dit("nano", folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"dit.safetensors does not exist"):
        load_dit("nano", tmp_path)
    with pytest.raises(MissingObjectError, match=r"t5/config.json does not exist"):
        load_text_encoder("nano", tmp_path)
    with pytest.raises(MissingObjectError, match="no encoder in"):
        identity("nano", tmp_path, ["encoder"])


def test_a_text_encoder_without_a_tensor_is_refused(folder: Path) -> None:
    path = folder / "t5" / "model.safetensors"
    state = load_file(path)
    del state["encoder.final_layer_norm.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"t5 does not fit: encoder.final_layer_norm.weight missing"):
        load_text_encoder("nano", folder)


def test_mochi_1_needs_a_source() -> None:
    with pytest.raises(
        InvalidInputError, match=r"model.source is required: preset mochi-1 brings no weights"
    ):
        identity("mochi-1")


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"model.preset must be one of mochi-1, nano, got mochi-2"):
        load_dit("mochi-2")


def test_identity_follows_the_bytes_of_the_chosen_parts(folder: Path) -> None:
    before = identity("nano", folder), identity("nano", folder, ["encoder"])
    assert before[0] == identity("nano")
    change(folder, pos_frequencies=torch.ones(3, 4, 16))
    after = identity("nano", folder), identity("nano", folder, ["encoder"])
    assert (before[0] != after[0], before[1] == after[1]) == (True, True)


def test_other_types_in_the_file_are_converted(folder: Path) -> None:
    state = load_file(folder / "encoder.safetensors")
    save_file({name: tensor.double() for name, tensor in state.items()}, folder / "encoder.safetensors")
    model = load_encoder("nano", folder)
    load_weights(model, folder / "encoder.safetensors", device="cpu", dtype=torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
