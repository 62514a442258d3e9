"""Files of the transformer made from files: Diffusers loads them strictly, and the way back is exact."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path

import pytest
import torch
from diffusers import MochiTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi_trainer.exports.conversion import write_diffusers_folder, write_merged, write_published
from mochi_trainer.lora import LoraParams, adapter_state, attach
from mochi_trainer.lora.merging import changes, merged
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.presets import PRESETS, preset_named
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.weights import WeightsError, load_dit, load_weights
from mochi_trainer.weights.diffusers_folder import CONFIG, INDEX, WEIGHTS, config, shards
from mochi_trainer.weights.diffusers_layout import dit_layout, published_layout
from tests.trainer.numerics import TINY, difference, draw, tiny_dit

LIMIT = 300_000
"""Bytes of a file, so that the small transformer has several."""
MIXED = {"pos_frequencies": torch.float32}


def published(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The small transformer as `dit.safetensors`, in `dtype` but for the frequencies."""
    path = folder / "dit.safetensors"
    state = tiny_dit(torch.float32).state_dict()
    save_file({name: tensor.to(MIXED.get(name, dtype)).contiguous() for name, tensor in state.items()}, path)
    return path


def folder_of(source: Path, into: Path, *, limit: int = LIMIT) -> list[str]:
    return [path.name for path in write_diffusers_folder(source, TINY, into, {"format": "pt"}, limit=limit)]


def bits(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Shape, type and sha256 of each tensor."""
    return {
        name: f"{tuple(t.shape)} {t.dtype} "
        + hashlib.sha256(t.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, t in tensors.items()
    }


@pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
@pytest.mark.parametrize("limit", [LIMIT, 10**10], ids=["several files", "one file"])
def test_diffusers_loads_the_folder_strictly_and_gives_the_same_velocity(limit: int, tmp_path: Path) -> None:
    folder_of(published(tmp_path), tmp_path / "transformer", limit=limit)
    theirs, info = MochiTransformer3DModel.from_pretrained(
        tmp_path / "transformer", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert {kind: len(names) for kind, names in info.items()} == dict.fromkeys(info, 0)
    ours = tiny_dit(torch.float32)
    assert bits(dict(theirs.state_dict())) == bits(dit_layout(ours.state_dict(), TINY.depth))
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    mask, timestep = torch.ones(1, 5, dtype=torch.bool), torch.tensor([600.0])
    with torch.no_grad():
        found = theirs.eval()(x, text, timestep=timestep, encoder_attention_mask=mask, return_dict=False)[0]
        assert difference(found, ours(x, torch.tensor([0.4]), text)) <= 2e-5


def test_files_and_index_are_those_that_diffusers_itself_writes(tmp_path: Path) -> None:
    written = folder_of(published(tmp_path), tmp_path / "ours")
    theirs = MochiTransformer3DModel.from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=LIMIT)
    assert len(written) > 4
    ours, reference = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("ours", "theirs"))
    assert ours == {key: value for key, value in reference.items() if key in ours}
    assert reference.keys() - ours.keys() <= {"_diffusers_version", "_name_or_path"}
    ours, reference = (json.loads((tmp_path / name / INDEX).read_text()) for name in ("ours", "theirs"))
    assert ours["metadata"] == reference["metadata"]
    assert ours["weight_map"].keys() == reference["weight_map"].keys()
    assert sorted(written) == sorted({*ours["weight_map"].values(), CONFIG, INDEX})
    assert all((tmp_path / "ours" / name).stat().st_size <= LIMIT + 20_000 for name in written)


def test_each_file_may_go_before_the_next_one_comes(tmp_path: Path) -> None:
    """What a run does: it stores a file and removes it, so that the disk holds one."""
    seen = []
    for path in write_diffusers_folder(published(tmp_path), TINY, tmp_path / "out", {}, limit=LIMIT):
        seen.append(path.name)
        assert [each.name for each in (tmp_path / "out").iterdir()] == [path.name]
        path.unlink()
    assert len(seen) == len(set(seen)) > 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_published_to_diffusers_and_back_keeps_every_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    source = published(tmp_path, dtype)
    files = [
        tmp_path / "transformer" / name
        for name in folder_of(source, tmp_path / "transformer")
        if name.endswith(".safetensors")
    ]
    back = tmp_path / "back.safetensors"
    write_published(files, tiny_dit(torch.float32).state_dict(), TINY, back, {"format": "pt"})
    assert bits(load_file(back)) == bits(load_file(source))


def test_the_inverse_of_the_layout_is_exact_in_memory_too() -> None:
    state = tiny_dit(torch.float32).state_dict()
    assert bits(published_layout(dit_layout(state, TINY.depth), state, TINY.depth)) == bits(state)


def test_the_published_sizes_have_the_configuration_that_diffusers_has_by_default() -> None:
    signature = inspect.signature(MochiTransformer3DModel.__init__).parameters
    usual = {name: parameter.default for name, parameter in signature.items() if name != "self"}
    expected = usual | {"out_channels": 12, "_class_name": "MochiTransformer3DModel"}
    assert config(DiTParams()) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_diffusers_builds_each_preset_from_its_configuration(name: str) -> None:
    params = preset_named(name).dit
    with torch.device("meta"):
        theirs = MochiTransformer3DModel.from_config(config(params)).state_dict()
        ours = dit_layout(DiT(params).state_dict(), params.depth)
    assert {key: tensor.shape for key, tensor in theirs.items()} == {
        key: tensor.shape for key, tensor in ours.items()
    }


@pytest.mark.parametrize("name", PRESETS)
def test_what_the_published_code_has_no_setting_for_is_as_published_in_each_preset(name: str) -> None:
    params, usual = preset_named(name).dit, DiTParams()
    for field in (
        "patch",
        "latent_channels",
        "text_tokens",
        "pooling_heads",
        "timestep_width",
        "mlp_multiple",
    ):
        assert getattr(params, field) == getattr(usual, field), field


def test_the_published_transformer_becomes_three_files_in_bfloat16() -> None:
    with torch.device("meta"):
        state = dit_layout(DiT(DiTParams()).state_dict(), DiTParams().depth)
    sizes = {name: 2 * tensor.numel() for name, tensor in state.items()}
    files = shards(sizes)
    assert [shard.file for shard in files] == [
        f"diffusion_pytorch_model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    assert [name for shard in files for name in shard.names] == list(sizes)
    assert all(sum(sizes[name] for name in shard.names) <= 10_000_000_000 for shard in files)
    assert [shard.file for shard in shards({"a": 11 * 10**9})] == [WEIGHTS]


def test_sizes_that_diffusers_cannot_hold_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"pooling_heads": 4}, "pooling_heads must be 8 for diffusers, got 4"),
        ({"mlp_multiple": 512}, "the hidden width of the visual MLP must be 256 for diffusers, got 512"),
    ):
        params = DiTParams(
            depth=1, visual_width=96, text_width=48, heads=4, text_feature_width=64, **({"mlp_multiple": 128} | change)
        )  # fmt: skip
        with pytest.raises(ValueError, match=message):
            next(write_diffusers_folder(published(tmp_path), params, tmp_path / "out", {}))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_transformer_and_one_that_lacks_a_part_are_named(tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.safetensors"
    save_file({"layer.weight": torch.zeros(2, 2)}, stranger)
    with pytest.raises(WeightsError, match=r"layer.weight is no tensor of the transformer"):
        next(write_diffusers_folder(stranger, TINY, tmp_path / "out", {}))
    state = dit_layout(tiny_dit(torch.float32).state_dict(), TINY.depth)
    name = "transformer_blocks.1.attn1.to_k.weight"
    lacking = {key: tensor for key, tensor in state.items() if key != name}
    save_file(lacking, tmp_path / WEIGHTS)
    names = tiny_dit(torch.float32).state_dict()
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        write_published([tmp_path / WEIGHTS], names, TINY, tmp_path / "back", {})
    save_file(lacking | {name: state[name].to(torch.bfloat16)}, tmp_path / WEIGHTS)
    with pytest.raises(WeightsError, match=r"the parts of blocks.1.attn.qkv_x.weight must have one type"):
        write_published([tmp_path / WEIGHTS], names, TINY, tmp_path / "back", {})


def test_numbers_of_another_kind_are_named(tmp_path: Path) -> None:
    path = published(tmp_path)
    state = load_file(path)
    save_file(state | {"x_embedder.proj.bias": state["x_embedder.proj.bias"].to(torch.float8_e4m3fn)}, path)
    with pytest.raises(
        WeightsError,
        match=r"x_embedder.proj.bias must have one of the types F64, F32, F16, BF16, got F8_E4M3",
    ):
        next(write_diffusers_folder(path, TINY, tmp_path / "out", {}))  # fmt: skip


def adapter(params: LoraParams) -> dict[str, Tensor]:
    model = load_dit("nano")
    attach(model, params)
    return {
        name: 0.3 * draw(*tensor.shape, seed=index, dtype=torch.float32)
        for index, (name, tensor) in enumerate(adapter_state(model).items())
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_file_has_the_changed_weights_and_every_other_byte_of_its_base(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    base, params = tmp_path / "dit.safetensors", LoraParams(rank=4, alpha=6, targets=("value", "text_output"))
    state = {name: t.to(MIXED.get(name, dtype)) for name, t in load_file(NANO_FOLDER / base.name).items()}
    save_file(state, base)
    before = hashlib.sha256(base.read_bytes()).hexdigest()
    given, out = adapter(params), tmp_path / "merged.safetensors"
    write_merged([base], given, params, out, {"mode": "merged"})
    where, found = changes(given, params), load_file(out)
    expected = {n: merged(n, t, where[n]) if n in where else t for n, t in state.items()}
    assert bits(found) == bits(expected)
    assert {name for name in state if not torch.equal(found[name], state[name])} == where.keys()
    assert hashlib.sha256(base.read_bytes()).hexdigest() == before
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"mode": "merged"}
    load_weights(DiT(preset_named("nano").dit), out, device="cpu", dtype=torch.float32)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    params = LoraParams(rank=4, alpha=4)
    given = adapter(params)
    beyond = {name.replace("blocks.0", "blocks.77"): tensor for name, tensor in given.items()}
    with pytest.raises(ValueError, match=r"changes blocks.77.attn.qkv_x.weight, which dit.safetensors does"):
        write_merged([NANO_FOLDER / "dit.safetensors"], beyond, params, tmp_path / "out", {})
    first = {name: tensor for name, tensor in given.items() if name.startswith("blocks.0.")}
    with pytest.raises(ValueError, match=r"an adapter of blocks.0.attn.qkv_x.weight must be for"):
        write_merged([published(tmp_path)], first, params, tmp_path / "out", {})


def test_a_truncated_base_is_named(tmp_path: Path) -> None:
    path = published(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"dit.safetensors cannot be read as safetensors"):
        next(write_diffusers_folder(path, TINY, tmp_path / "out", {}))
