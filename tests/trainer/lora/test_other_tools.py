"""LoRA files of other tools: the effect is that of their numbers, and what is none is called by its name."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import DeloraConfig, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

from mochi_trainer.__main__ import main
from mochi_trainer.jobs.inspection import inspected
from mochi_trainer.lora import LoraParams, imported, load_file, read_file
from mochi_trainer.lora.merging import changes
from mochi_trainer.lora.targets import PARTS
from mochi_trainer.weights.stored import Header, Listed
from tests.trainer.numerics import TINY, difference, draw, tiny_dit
from tests.trainer.tiny_of_diffusers import diffusers_dit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape"),  # peft says so of lora_B.bias
]

RANKS = {"attn1.to_q": 4, "attn1.to_v": 2, "ff.net.0.proj": 3}
SIZES = {"attn1.to_q": (96, 96), "attn1.to_v": (96, 96), "ff.net.0.proj": (512, 96)}
FUSED = {"attn.qkv_x": (288, 96), "attn.proj_x": (96, 96), "mlp_x.w2": (96, 256)}
SCALE = 2.0
"""alpha / rank in every file below that says it; a power of two, so that nothing is rounded."""


def diffusers_modules() -> dict[str, tuple[Tensor, Tensor]]:
    """By module, A and B of adapters on layers of Diffusers, of different ranks."""
    found = {}
    for block in range(TINY.depth):
        for seed, (layer, rank) in enumerate(RANKS.items()):
            rows, columns = SIZES[layer]
            found[f"transformer_blocks.{block}.{layer}"] = (
                draw(rank, columns, seed=10 * block + seed, dtype=torch.float32),
                draw(rows, rank, seed=100 + 10 * block + seed, dtype=torch.float32),
            )
    return found


def fused_modules() -> dict[str, tuple[Tensor, Tensor]]:
    """The same on layers of the published checkpoint."""
    found = {}
    for block in range(TINY.depth):
        for seed, (layer, (rows, columns)) in enumerate(FUSED.items()):
            found[f"blocks.{block}.{layer}"] = (
                draw(2 + seed, columns, seed=10 * block + seed, dtype=torch.float32),
                draw(rows, 2 + seed, seed=100 + 10 * block + seed, dtype=torch.float32),
            )
    return found


def dotted(prefix: str, a: str, b: str, *, alpha: bool) -> Callable[[str, Tensor, Tensor], dict[str, Tensor]]:
    def names(module: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        said = {f"{prefix}{module}.alpha": torch.tensor(SCALE * len(down))} if alpha else {}
        return {f"{prefix}{module}.{a}": down, f"{prefix}{module}.{b}": up} | said

    return names


def underscored(prefix: str) -> Callable[[str, Tensor, Tensor], dict[str, Tensor]]:
    def names(module: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        stem = prefix + module.replace(".", "_")
        alpha = torch.tensor(SCALE * len(down), dtype=torch.bfloat16)
        return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": alpha}

    return names


MANNERS = {
    "ComfyUI, diffusion-pipe": dotted("diffusion_model.", "lora_A.weight", "lora_B.weight", alpha=False),
    "ComfyUI's node with alpha": dotted("diffusion_model.", "lora_down.weight", "lora_up.weight", alpha=True),
    "DiffSynth": dotted("", "lora_A.default.weight", "lora_B.default.weight", alpha=False),
    "Diffusers": dotted("transformer.", "lora_A.weight", "lora_B.weight", alpha=False),
    "Diffusers, of old": dotted("transformer.", "lora.down.weight", "lora.up.weight", alpha=False),
    "the published fine-tuner": dotted("", "lora_A", "lora_B", alpha=False),
    "a compiled model": dotted("_orig_mod.", "lora_A.weight", "lora_B.weight", alpha=False),
    "a wrapped model": dotted("module.diffusion_model.", "lora_A.weight", "lora_B.weight", alpha=True),
    "no prefix, alpha": dotted("", "lora_A.weight", "lora_B.weight", alpha=True),
    "a whole checkpoint's prefix": dotted(
        "model.diffusion_model.", "lora_A.weight", "lora_B.weight", alpha=True
    ),
    "kohya": underscored("lora_unet_"),
    "OneTrainer": underscored("lora_transformer_"),
    "LyCORIS": underscored("lycoris_"),
}


def products(state: Mapping[str, Tensor], params: LoraParams) -> dict[str, Tensor]:
    """What is added to each published weight, in float64."""
    found = {}
    for name, pairs in changes(state, params).items():
        parts = PARTS[pairs[0].projection.layer]
        rows = {pair.projection.part: pair.b.double() @ pair.a.double() for pair in pairs}
        some = next(iter(rows.values()))
        found[name] = torch.cat([rows.get(part, torch.zeros_like(some)) for part in parts])
    return found


@pytest.mark.parametrize("manner", MANNERS)
def test_adapters_on_layers_of_diffusers_do_what_their_numbers_say(manner: str) -> None:
    modules = diffusers_modules()
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in modules.items():
        tensors |= MANNERS[manner](module, a, b)
    scale = SCALE if any(name.endswith(".alpha") for name in tensors) else 1.0
    state, params = imported(tensors, {})
    assert (params.rank, params.targets) == (4, ("query", "value", "mlp_in"))
    found = products(state, params)
    assert len(found) == 2 * TINY.depth
    for block in range(TINY.depth):
        theirs = {
            layer: scale * (lambda pair: pair[1].double() @ pair[0].double())(modules[f"transformer_blocks.{block}.{layer}"])
            for layer in RANKS
        }  # fmt: skip
        query, value = theirs["attn1.to_q"], theirs["attn1.to_v"]
        assert torch.equal(
            found[f"blocks.{block}.attn.qkv_x.weight"], torch.cat([query, torch.zeros_like(query), value])
        )
        halves = theirs["ff.net.0.proj"].chunk(2)
        assert torch.equal(found[f"blocks.{block}.mlp_x.w1.weight"], torch.cat(halves[::-1]))


@pytest.mark.parametrize("manner", MANNERS)
def test_adapters_on_published_layers_do_what_their_numbers_say(manner: str) -> None:
    modules = fused_modules()
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in modules.items():
        tensors |= MANNERS[manner](module, a, b)
    scale = SCALE if any(name.endswith(".alpha") for name in tensors) else 1.0
    found = products(*imported(tensors, {}))
    assert found.keys() == {f"{module}.weight" for module in modules}
    for module, (a, b) in modules.items():
        assert difference(found[f"{module}.weight"], scale * b.double() @ a.double()) <= 1e-15, module


PEFT = {
    "alpha is not the rank": LoraConfig(r=4, lora_alpha=10, target_modules=["attn1.to_q", "ff.net.0.proj"]),
    "rank-stabilised": LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["attn1.to_v", "add_k_proj"]
    ),
    "ranks and alphas by patterns": LoraConfig(
        r=4, lora_alpha=4, target_modules=["attn1.to_q", "attn1.to_k"],
        rank_pattern={"to_q": 2, r"transformer_blocks\.1\.attn1\.to_k": 6},
        alpha_pattern={r"^transformer_blocks\.0\..*": 6, "to_k": 12},
    ),
    "some of the blocks": LoraConfig(
        r=4, lora_alpha=8, target_modules=["attn1.to_q", "to_out.0"], layers_to_transform=[0],
        layers_pattern="transformer_blocks",
    ),
    "other layers in each block": LoraConfig(
        r=4, lora_alpha=8, target_modules=r".*(blocks\.0\.attn1\.to_v|blocks\.1\.attn1\.to_k)"
    ),
}  # fmt: skip


def filled(model: nn.Module) -> None:
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                parameter.copy_(0.3 * draw(*parameter.shape, seed=index))


@pytest.mark.parametrize("config", PEFT.values(), ids=PEFT.keys())
def test_the_folder_that_peft_saves_gives_the_velocity_of_peft(config: LoraConfig, tmp_path: Path) -> None:
    model = get_peft_model(diffusers_dit(), copy.deepcopy(config))
    filled(model)
    model.save_pretrained(str(tmp_path))
    assert all(
        name.startswith("base_model.model.") for name in read_tensors(tmp_path / "adapter_model.safetensors")
    )
    ours = copy.deepcopy(tiny_dit(torch.float32))
    load_file(ours, tmp_path)
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    with torch.no_grad():
        expected = model.eval()(
            x,
            text,
            timestep=torch.tensor([600.0]),
            encoder_attention_mask=torch.ones(1, text.shape[1], dtype=torch.bool),
            return_dict=False,
        )[0]
        plain = tiny_dit(torch.float32)(x, torch.tensor([0.4]), text)
        assert difference(ours(x, torch.tensor([0.4]), text), expected) <= 2e-5
        assert difference(plain, expected) > 1e-3


def test_peft_on_the_published_layers_adds_what_peft_would_add(tmp_path: Path) -> None:
    config = LoraConfig(
        r=4, lora_alpha=10, target_modules=["attn.qkv_x", "attn.proj_y", "mlp_x.w2"],
        rank_pattern={"qkv_x": 2}, alpha_pattern={"blocks.1.attn.qkv_x": 3},
    )  # fmt: skip
    model = get_peft_model(copy.deepcopy(tiny_dit(torch.float32)), config)
    filled(model)
    model.save_pretrained(str(tmp_path))
    found = products(*read_file(tmp_path / "adapter_model.safetensors"))
    theirs = {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_delta_weight("default")
        .detach()
        .double()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert found.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert difference(found[name], expected) <= 1e-6, name


def test_a_file_of_peft_without_its_configuration_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(diffusers_dit(), copy.deepcopy(PEFT["alpha is not the rank"]))
    model.save_pretrained(str(tmp_path))
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"which keeps alpha in adapter_config.json: it must lie beside"):
        read_file(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"adapter_config.json cannot be read: an object is needed, got list"
    ):
        read_file(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": "much"}')
    with pytest.raises(ValueError, match=r"peft's configuration cannot be read: could not convert"):
        read_file(tmp_path)


WRONG = {
    "no number": ('{"lora_alpha": NaN}', "lora_alpha must be a finite number, got nan"),
    "endless": ('{"lora_alpha": 1e400}', "lora_alpha must be a finite number, got inf"),
    "too large for a float": ('{"lora_alpha": 1%s}' % ("0" * 400), "lora_alpha must be a finite number, got 1000"),
    "no number for one layer": ('{"lora_alpha": 4, "alpha_pattern": {"to_q": NaN}}', "alpha_pattern to_q must be a finite number"),
    "patterns in a list": ('{"lora_alpha": 4, "alpha_pattern": [1]}', "'list' object has no attribute 'items'"),
    "too large for float32": ('{"lora_alpha": 3e38}', r"lora_B.weight times its scale 7.5e\+37 has \d+ of 384 numbers"),
    "no alpha": ('{"r": 4}', "it must have lora_alpha there"),
    "alpha of nothing": ('{"lora_alpha": null}', "it must have lora_alpha there"),
    "nested too deeply": ("[" * 100_000, "adapter_config.json cannot be read: it is nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_configuration_of_peft_that_makes_no_finite_adapter_is_refused(case: str, tmp_path: Path) -> None:
    content, words = WRONG[case]
    a, b = diffusers_modules()["transformer_blocks.0.attn1.to_q"]
    save_file({f"base_model.model.transformer_blocks.0.attn1.to_q.lora_{half}.weight": matrix for half, matrix in (("A", a), ("B", 10 * b))}, tmp_path / "adapter_model.safetensors")  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_file(tmp_path)
    assert main(["inspect", str(tmp_path)]) in (0, 2)  # it tells what it is, or that it cannot be read


def test_a_folder_in_the_place_of_the_configuration_is_told(tmp_path: Path) -> None:
    get_peft_model(diffusers_dit(), copy.deepcopy(PEFT["alpha is not the rank"])).save_pretrained(
        str(tmp_path)
    )
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_config.json").mkdir()
    with pytest.raises(ValueError, match=r"adapter_config.json cannot be read: it is a folder"):
        read_file(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)  # of Python, which writes and reads NaN and Infinity too
KEYS = st.sampled_from(
    ["lora_alpha", "alpha_pattern", "use_rslora", "peft_type", "use_dora", "init_lora_weights",
     "layers_to_transform", "qkv_proj_lora_alpha", "qkv_proj_lora_rank"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(config=st.dictionaries(KEYS, JSON | st.dictionaries(st.just("qkv_x"), JSON), max_size=4) | JSON)
def test_whatever_a_file_says_about_itself_its_adapters_are_finite_or_it_is_refused(config: object) -> None:
    module = "blocks.0.attn.qkv_x"
    tensors = MANNERS["the published fine-tuner"](module, *fused_modules()[module])
    listed = {name: Listed("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    for key in ("kwargs", "lora_adapter_metadata"):
        metadata = {key: json.dumps(config)}
        inspected(Header(listed, metadata, 0), "lora.safetensors")
        try:
            state, _ = imported(tensors, metadata)
        except ValueError:
            continue
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


METHODS = {
    "DoRA": (LoraConfig(r=4, use_dora=True, target_modules=["attn1.to_q"]), "a DoRA"),
    "biases": (LoraConfig(r=4, bias="all", target_modules=["attn1.to_out.0"]), "a LoRA with biases"),
    "bias of B": (LoraConfig(r=4, lora_bias=True, target_modules=["attn1.to_out.0"]), "a LoRA with biases"),
    "whole layers": (
        LoraConfig(r=4, target_modules=["attn1.to_q"], modules_to_save=["proj_out"]),
        "has some beside its matrices",
    ),
    "another layer": (LoraConfig(r=4, target_modules=["norm1.linear"]), "other than attention and MLP"),
    "PiSSA": (
        LoraConfig(r=4, init_lora_weights="pissa", target_modules=["attn1.to_q"]),
        r"a base that peft has changed \(pissa\)",
    ),
    "LoHa": (LoHaConfig(r=4, target_modules=["attn1.to_q"]), "a LoHa"),
    "LoKr": (LoKrConfig(r=4, target_modules=["attn1.to_q"]), "a LoKr"),
    "OFT": (OFTConfig(r=4, oft_block_size=0, target_modules=["attn1.to_q"]), "an OFT adapter"),
    "DeLoRA": (DeloraConfig(r=4, target_modules=["attn1.to_q"]), "a DELORA adapter of peft|no adapter"),
}


@pytest.mark.parametrize("method", METHODS)
def test_other_methods_of_peft_are_called_by_their_name(method: str, tmp_path: Path) -> None:
    config, words = METHODS[method]
    model = get_peft_model(diffusers_dit(), copy.deepcopy(config))
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match=words):
        read_file(tmp_path)


STRANGERS = {
    "Wan": ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a LoRA of Wan"),
    "Wan by kohya": ("lora_unet_blocks_0_cross_attn_k.lora_down.weight", "a LoRA of Wan"),
    "HunyuanVideo": ("diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight", "of HunyuanVideo"),
    "Flux": ("lora_unet_single_blocks_0_linear1.lora_down.weight", "a LoRA of Flux or HunyuanVideo"),
    "Flux in Diffusers": ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "of Flux or"),
    "Qwen-Image": ("transformer.transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight", "of Qwen-Image"),
    "LTX-Video": ("transformer.transformer_blocks.0.attn2.to_q.lora_A.weight", "of LTX-Video"),
    "SDXL": ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "of Stable Diffusion"),
    "text encoder": ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "of a text encoder"),
    "a language model": ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "language model"),
    "DoRA of kohya": ("lora_unet_blocks_0_attn_qkv_x.dora_scale", "a DoRA"),
    "LoHa of LyCORIS": ("lycoris_blocks_0_attn_qkv_x.hada_w1_a", "a LoHa"),
    "LoKr of LyCORIS": ("lycoris_blocks_0_attn_qkv_x.lokr_w1", "a LoKr"),
    "GLoRA of LyCORIS": ("lycoris_blocks_0_attn_qkv_x.a1.weight", "a GLoRA"),
    "difference of biases": ("diffusion_model.blocks.0.attn.proj_x.diff_b", "differences of whole weights"),
    "another layer of Mochi": ("diffusion_model.blocks.0.mod_x.lora_up.weight", "other than attention and MLP"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRANGERS)
def test_a_file_of_another_model_or_method_is_called_by_its_name(case: str) -> None:
    name, words = STRANGERS[case]
    good = MANNERS["kohya"]("blocks.0.attn.qkv_x", *fused_modules()["blocks.0.attn.qkv_x"])
    for tensors in ({name: torch.zeros(2, 2)}, good | {name: torch.zeros(2, 2)}):
        with pytest.raises(ValueError, match=words) as caught:
            imported(tensors, {})
        assert name in str(caught.value)
        assert ";" in str(caught.value)  # what to do


def test_a_lora_of_cogvideox_is_not_taken_for_one_of_this_model() -> None:
    """Its layers have the names and the width of Mochi's in Diffusers; it has 42 blocks."""
    tensors = {
        f"transformer.transformer_blocks.{block}.attn1.to_q.lora_{matrix}.weight": torch.zeros(shape)
        for block in range(42)
        for matrix, shape in (("A", (2, 96)), ("B", (96, 2)))
    }
    with pytest.raises(ValueError, match="a LoRA of CogVideoX"):
        imported(tensors, {})
    said = {"lora_adapter_metadata": json.dumps({"transformer.layers_to_transform": list(range(42))})}
    assert len(imported(tensors, said)[0]) == 84


def test_every_number_is_looked_at_and_its_tensor_named() -> None:
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in fused_modules().items():
        tensors |= MANNERS["kohya"](module, a, b)
    for name in tensors:
        for bad in (float("nan"), float("inf"), -float("inf")):
            broken = tensors[name].clone()
            broken.view(-1)[-1] = bad
            with pytest.raises(ValueError, match=rf"{name} has 1 of \d+ numbers that are not finite"):
                imported(tensors | {name: broken}, {})
    whole = {name: tensor.int() if "lora_up" in name else tensor for name, tensor in tensors.items()}
    with pytest.raises(
        ValueError, match=r"lora_up.weight must hold numbers with a fraction, got torch.int32"
    ):
        imported(whole, {})


def test_two_adapters_for_one_layer_are_refused() -> None:
    a, b = diffusers_modules()["transformer_blocks.0.attn1.to_q"]
    once = MANNERS["Diffusers"]("transformer_blocks.0.attn1.to_q", a, b)
    again = MANNERS["DiffSynth"]("transformer_blocks.0.attn1.to_q", a, b)
    with pytest.raises(ValueError, match="are for the same layer, one is allowed"):
        imported(once | again, {})
    fused = MANNERS["Diffusers"]("blocks.0.attn.qkv_x", *fused_modules()["blocks.0.attn.qkv_x"])
    with pytest.raises(ValueError, match="block 0 must have one adapter for query, the file has two"):
        imported(once | fused, {})


def test_of_a_folder_the_one_file_is_taken_or_the_others_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder without a file of safetensors; it has no files"):
        read_file(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"without a file of safetensors; it has adapter_model.bin"):
        read_file(tmp_path)
    module = "blocks.0.attn.qkv_x"
    tensors = MANNERS["the published fine-tuner"](module, *fused_modules()[module])
    save_file(tensors, tmp_path / "one.safetensors")
    alone = read_file(tmp_path)[0]
    assert alone.keys() == read_file(tmp_path / "one.safetensors")[0].keys()
    save_file(tensors, tmp_path / "two.safetensors")
    with pytest.raises(
        ValueError, match=r"2 files of safetensors, name one: one.safetensors, two.safetensors"
    ):
        read_file(tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert read_file(tmp_path)[0].keys() == alone.keys()


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    module = "blocks.0.attn.qkv_x"
    tensors = MANNERS["the published fine-tuner"](module, *fused_modules()[module])
    torch.save(tensors, tmp_path / "my lora.pt")
    with pytest.raises(ValueError, match="a pickle can run code when it is opened") as caught:
        read_file(tmp_path / "my lora.pt")
    command = shlex.split(str(caught.value).partition("harmed: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    converted = read_tensors(tmp_path / "my lora.safetensors")
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors.items())


def test_a_header_whose_length_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    module, path = "blocks.0.attn.qkv_x", tmp_path / "lora.safetensors"
    tensors = MANNERS["the published fine-tuner"](module, *fused_modules()[module])
    for filler in range(0, 512, 8):
        save_file(tensors, path, metadata={"filler": "x" * filler})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert read_file(path)[1].rank == 2
