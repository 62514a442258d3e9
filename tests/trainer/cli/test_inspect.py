"""`inspect` tells what a safetensors file is, from its header alone, and names what is wrong with it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi_trainer.__main__ import main
from mochi_trainer.jobs.inspection import Inspection, inspected, report
from mochi_trainer.lora import LoraParams, adapter_state, attach, export_diffusers, export_native
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.presets.catalogue import NANO_FOLDER, preset_named
from mochi_trainer.train.shard_bytes import file_pieces
from mochi_trainer.train.shards import own_state, shard_name
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights import load_dit
from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table
from mochi_trainer.weights.stored import Header, Listed, read_header

PARAMS = LoraParams(rank=4, alpha=8, targets=("query", "value", "text_output"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def header_only(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A file of any size that takes no room: the header, and a hole where the bytes would be."""
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def look(path: Path) -> Inspection:
    return inspected(read_header(path), path.name)


def adapter() -> dict[str, Tensor]:
    model = load_dit("nano")
    attach(model, PARAMS)
    return adapter_state(model)


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("dit", "transformer (DiT), published names, fits nano"),
        ("encoder", "encoder of the autoencoder, published names, fits nano"),
        ("decoder", "decoder of the autoencoder, published names, fits nano"),
        ("t5/model", "T5 text encoder, names of transformers, fits nano"),
    ],
)
def test_each_part_of_nano_is_known_and_whole(file: str, what: str) -> None:
    found = look(NANO_FOLDER / f"{file}.safetensors")
    assert (found.what, found.whole) == (what, True)


def test_the_published_transformer_is_known_though_no_byte_of_its_weights_is_read(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = DiT(DiTParams()).state_dict()
    found = look(
        header_only(tmp_path / "dit.safetensors", {name: tuple(t.shape) for name, t in state.items()})
    )
    assert (found.what, found.whole) == ("transformer (DiT), published names, fits mochi-1", True)


def test_the_layout_of_diffusers_is_known(tmp_path: Path) -> None:
    preset = preset_named("nano")
    save_file(dit_layout(load_dit("nano").state_dict(), preset.dit.depth), tmp_path / "dit.safetensors")
    assert look(tmp_path / "dit.safetensors").what == "transformer (DiT), Diffusers' names, fits nano"
    halves = {
        "encoder": diffusers_layout(Encoder(preset.encoder).state_dict(), encoder_table(preset.encoder)),
        "decoder": diffusers_layout(Decoder(preset.decoder).state_dict(), decoder_table(preset.decoder)),
    }
    both = {f"{half}.{name}": tensor for half, state in halves.items() for name, tensor in state.items()}
    save_file(both, tmp_path / "vae.safetensors")
    assert look(tmp_path / "vae.safetensors").what == "autoencoder, both halves, Diffusers' names, fits nano"


def test_tuned_weights_say_so(tmp_path: Path) -> None:
    save_file(load_dit("nano").state_dict(), tmp_path / "dit.safetensors", metadata={"mode": "full"})
    assert look(tmp_path / "dit.safetensors").what == "transformer (DiT), tuned, published names, fits nano"


def test_a_lora_of_diffusers_tells_targets_rank_and_alpha(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(export_diffusers(adapter(), PARAMS), path, metadata={"alpha": "8"})
    found = look(path)
    assert (found.what, found.whole) == ("LoRA, Diffusers' names, fits nano", True)
    assert found.facts == {
        "targets": "query, value, text_output",
        "rank": "4",
        "alpha": "8 in training; alpha / rank is folded into B",
    }


def test_a_native_lora_tells_its_fused_targets_ranks_and_alphas(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    tensors, metadata = export_native(adapter(), PARAMS)
    save_file(tensors, path, metadata=metadata)
    found = look(path)
    assert (found.what, found.whole) == ("LoRA, native, fused names, fits nano", True)
    assert found.facts == {
        "targets": "attn.qkv_x (query, key, value), attn.proj_y (output)",
        "rank": "4, 8",
        "alpha": "4 (out_proj_lora_alpha), 8 (qkv_proj_lora_alpha)",
    }


def test_a_checkpoint_and_the_files_of_the_stages_are_known(tmp_path: Path) -> None:
    model = load_dit("nano")
    attach(model, PARAMS)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    path = tmp_path / shard_name(0, 2)
    state = own_state(parameters, torch.optim.AdamW(parameters.values()), first=True)
    path.write_bytes(b"".join(file_pieces(state)))
    found = look(path)
    assert found.what == "checkpoint of a training, adapters"
    assert found.facts["shard"] == "1 of 2"
    assert found.facts["moments"] == "none yet"
    latents = torch.zeros(12, 15, 60, 106)
    save_file({"mean": latents, "logvar": latents.clone()}, tmp_path / "clip.safetensors")
    assert look(tmp_path / "clip.safetensors").facts["video"] == "85 frames of 848x480"
    save_file({"features": torch.zeros(5, 4096)}, tmp_path / "caption.safetensors")
    assert (
        look(tmp_path / "caption.safetensors").what
        == "features of a caption, as the stage captions stores them, fits mochi-1"
    )


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = load_file(NANO_FOLDER / "dit.safetensors")
    del state["blocks.1.attn.proj_x.weight"]
    state |= {"stranger": torch.zeros(1), "pos_frequencies": torch.zeros(3, 4, 15)}
    save_file(state, tmp_path / "dit.safetensors")
    found = look(tmp_path / "dit.safetensors")
    assert found.what.endswith("nearest to nano")
    assert found.missing == ("blocks.1.attn.proj_x.weight",)
    assert found.extra == ("stranger",)
    assert found.wrong == ("pos_frequencies has shape [3, 4, 15] instead of [3, 4, 24]",)
    assert "do not use it" in report(tmp_path / "dit.safetensors")


def test_a_lora_without_one_of_its_matrices_is_not_whole(tmp_path: Path) -> None:
    tensors = export_diffusers(adapter(), PARAMS)
    name = "transformer.transformer_blocks.2.attn1.to_q.lora_B.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "lora.safetensors")
    assert look(tmp_path / "lora.safetensors").missing == (name,)


def test_only_the_first_problems_are_named_and_all_are_counted(tmp_path: Path) -> None:
    state = load_file(NANO_FOLDER / "dit.safetensors")
    kept = dict(list(state.items())[:-7])
    save_file(kept, tmp_path / "dit.safetensors")
    assert "7: " in report(tmp_path / "dit.safetensors")
    assert "and 2 more" in report(tmp_path / "dit.safetensors")


def test_names_of_another_model_are_no_part_of_this_one() -> None:
    tensors = {"some.layer.lora_A.weight": Listed("F32", (2, 2))}
    assert inspected(Header(tensors, {}, 0), "x").what == "LoRA of another model or layout"
    assert inspected(Header({"layer.weight": Listed("F32", (2,))}, {}, 0), "x").what == "unknown"


WHOLE = (NANO_FOLDER / "encoder.safetensors").read_bytes()


def lying(header: object, numbers: int = 8) -> bytes:
    """A file with this header and as many bytes of numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * numbers


def listed(first: object, last: object, *shape: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [first, last]}


BROKEN = {
    "empty": (b"", 2, "is empty"),
    "text": (b"hello, this is a note\n", 2, "is no safetensors file"),
    "short": (b"abc", 2, "is no safetensors file"),
    "pickle": (b"\x80\x02}q\x00.........", 2, "is a pickle"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, 2, "is a zip archive, as torch.save writes it"),
    "no json": ((4).to_bytes(8, "little") + b"{abc", 2, "its header cannot be read"),
    "no offsets": ((13).to_bytes(8, "little") + b'{"a":{"b":1}}', 2, "its header cannot be read"),
    "other length": (lying({"a": listed(0, 4, 2)}, 4), 2, "a has 4 bytes, [2] in F32 is 8"),
    "outside": (lying({"a": listed(-4, 4, 2)}, 4), 2, "a has no possible place or shape"),
    "overlapping": (
        lying({"a": listed(0, 8, 2), "b": listed(4, 8, 1)}),
        2,
        "b overlaps with the tensor before it",
    ),
    "with a gap": (
        lying({"a": listed(0, 4, 1), "b": listed(8, 12, 1)}, 12),
        2,
        "b leaves a gap after the tensor before it",
    ),
    "infinite": (lying({"a": listed(0, 1e999, 2)}), 2, "inf is no number of bytes"),
    "a text for a number": (lying({"a": listed(0, "8", 2)}), 2, "'8' is no number of bytes"),
    "half a row": (lying({"a": listed(0, 8, 2.0)}), 2, "a has no possible place or shape"),
    "metadata of numbers": (
        lying({"__metadata__": {"steps": 3}, "a": listed(0, 8, 2)}),
        2,
        "steps must have a text",
    ),
    "nested too deeply": (lying(b'{"a":' + b"[" * 100_000, 0), 2, "it is nested too deeply"),
    "cut in the header": (WHOLE[:500], 2, "is truncated in its header: it has 500 bytes"),
    "cut in the data": (WHOLE[:-9], 2, f"it has {len(WHOLE) - 9} bytes, its header says {len(WHOLE)}"),
    "too long": (WHOLE + b"\0", 2, "is too long"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_no_whole_safetensors_file_ends_with_the_code_of_the_table(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, code, message = BROKEN[case]
    path = tmp_path / "file.safetensors"
    path.write_bytes(data)
    assert main(["inspect", str(path)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_a_file_without_a_tensor_is_of_no_kind(tmp_path: Path) -> None:
    save_file({}, tmp_path / "nothing.safetensors")
    assert report(tmp_path / "nothing.safetensors").startswith(
        "nothing.safetensors: a file without tensors\n"
    )


def test_a_file_that_is_not_there_ends_with_the_code_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path / "absent")]) == 3
    assert "absent does not exist" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path)]) == 2
    assert "is a folder without a file of safetensors; it has no files" in capsys.readouterr().err


def test_the_command_prints_what_the_file_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(NANO_FOLDER / "dit.safetensors")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "dit.safetensors: transformer (DiT), published names, fits nano"


def test_loras_of_other_tools_tell_whose_names_they_have(tmp_path: Path) -> None:
    plain = export_diffusers(adapter(), PARAMS)
    peft = {name.replace("transformer.", "base_model.model.", 1): tensor for name, tensor in plain.items()}
    save_file(peft, tmp_path / "adapter_model.safetensors")
    assert "alpha        not known: adapter_config.json must lie beside the file" in report(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "use_rslora": true}')
    found = report(tmp_path)
    assert found.startswith("adapter_model.safetensors: LoRA, peft's names, fits nano\n")
    assert "targets      query, value, text_output\n  rank         4\n" in found
    assert "alpha        8, rank-stabilised (adapter_config.json)" in found
    native, metadata = export_native(adapter(), PARAMS)
    comfy = {f"diffusion_model.{name}.weight": tensor for name, tensor in native.items()}
    name = next(iter(comfy))
    comfy[f"{name.partition('.lora_')[0]}.alpha"] = torch.tensor(8.0)
    save_file(comfy, tmp_path / "comfy.safetensors", metadata=metadata)
    found = report(tmp_path / "comfy.safetensors")
    assert found.startswith("comfy.safetensors: LoRA, ComfyUI's names, fits nano\n")
    assert "alpha        in tensors of its own, layer by layer" in found
    del comfy["diffusion_model.blocks.2.attn.qkv_x.lora_B.weight"]
    save_file(comfy, tmp_path / "comfy.safetensors", metadata=metadata)
    assert look(tmp_path / "comfy.safetensors").missing == ("blocks.2.attn.qkv_x.lora_B",)


def test_a_lora_that_cannot_be_used_is_called_by_the_name_of_its_method_or_model(tmp_path: Path) -> None:
    plain = export_diffusers(adapter(), PARAMS)
    magnitude = "transformer.transformer_blocks.0.attn1.to_q.lora_magnitude_vector"
    save_file(plain | {magnitude: torch.zeros(96)}, tmp_path / "lora.safetensors")
    found = look(tmp_path / "lora.safetensors")
    assert (found.what, found.extra) == ("a DoRA, with magnitudes beside its matrices", (magnitude,))
    wan = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": Listed("F32", (2, 2))}
    assert inspected(Header(wan, {}, 0), "x").what == "a LoRA of Wan"
    weights = {"blocks.0.self_attn.q.weight": Listed("F32", (2, 2))}
    assert inspected(Header(weights, {}, 0), "x").what == "unknown"
