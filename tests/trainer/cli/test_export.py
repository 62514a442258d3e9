"""`export`: LoRAs from one format to the other and into their base, transformers from one layout to the other."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import MochiTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mochi_trainer.__main__ import main
from mochi_trainer.jobs.inspection import report
from mochi_trainer.lora import LoraParams, adapter_state, attach, export_diffusers, export_native
from mochi_trainer.lora.combination import Weighted, combined
from mochi_trainer.lora.merging import changes, merged
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.weights import load_dit
from mochi_trainer.weights.diffusers_folder import INDEX, WEIGHTS, Shard, index, shards
from mochi_trainer.weights.diffusers_layout import dit_layout
from tests.trainer.numerics import draw

PARAMS = LoraParams(rank=2, alpha=4, targets=("query", "value", "mlp_in", "text_output"))
OTHER = LoraParams(rank=3, alpha=3, targets=("key", "value"))
BASE = NANO_FOLDER / "dit.safetensors"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logging is as before afterwards."""
    torch.set_num_threads(1)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def adapter(params: LoraParams, seed: int) -> dict[str, Tensor]:
    model = load_dit("nano")
    attach(model, params)
    return {
        name: 0.3 * draw(*tensor.shape, seed=100 * seed + number, dtype=torch.float32)
        for number, (name, tensor) in enumerate(adapter_state(model).items())
    }


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One LoRA in both formats, as a run stores it, and another one."""
    folder = tmp_path_factory.mktemp("loras")
    state, own = (
        adapter(PARAMS, 1),
        {"format": "pt", "base": "nano", "steps": "6", "alpha": "4", "frames": "7"},
    )
    shape = {"rank": "2", "targets": ",".join(PARAMS.targets)}
    tensors, metadata = export_native(state, PARAMS)
    files = {name: folder / f"{name}.safetensors" for name in ("diffusers", "native", "other")}
    save_file(export_diffusers(state, PARAMS), files["diffusers"], metadata=own | shape)
    save_file(tensors, files["native"], metadata=own | metadata)
    save_file(export_diffusers(adapter(OTHER, 2), OTHER), files["other"])
    return files


def exported(out: Path, *arguments: object) -> Path:
    assert main(["export", *map(str, arguments), "--out", str(out)]) == 0
    return out


def content(path: Path) -> tuple[dict[str, str], Mapping[str, str]]:
    """The bits of every tensor, and the metadata."""
    with safe_open(path, framework="pt") as file:
        return {
            name: f"{tuple(t.shape)} {t.dtype} {hashlib.sha256(t.view(torch.uint8).numpy().tobytes()).hexdigest()}"
            for name, t in load_file(path).items()
        }, file.metadata() or {}


def card(folder: Path) -> tuple[dict[str, object], str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_lora_goes_to_the_other_format_and_back_bit_for_bit(tmp_path: Path, loras: dict[str, Path]) -> None:
    native = exported(tmp_path / "native", loras["diffusers"], "--to", "native") / "lora-comfyui.safetensors"
    assert content(native) == content(loras["native"])
    back = exported(tmp_path / "back", native, "--to", "diffusers") / "lora.safetensors"
    assert content(back) == content(loras["diffusers"])


def test_several_weighted_loras_become_one(tmp_path: Path, loras: dict[str, Path]) -> None:
    files = f"{loras['diffusers']}:0.5", f"{loras['other']}:-0.25"
    out = exported(tmp_path / "out", *files, "--to", "diffusers") / "lora.safetensors"
    expected = combined(
        [Weighted(adapter(PARAMS, 1), PARAMS, 0.5), Weighted(adapter(OTHER, 2), OTHER, -0.25)]
    )
    found, wanted = load_file(out), export_diffusers(*expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_one_lora_with_a_weight_is_scaled(tmp_path: Path, loras: dict[str, Path]) -> None:
    out = exported(tmp_path / "out", f"{loras['diffusers']}:0.5", "--to", "diffusers") / "lora.safetensors"
    before, after = load_file(loras["diffusers"]), load_file(out)
    assert all(torch.equal(after[n], t * 0.5 if "lora_B" in n else t) for n, t in before.items())


@pytest.mark.parametrize("model", [None, NANO_FOLDER, BASE], ids=["packaged", "folder", "file"])
def test_a_lora_goes_into_the_weights_of_its_base(
    model: Path | None, tmp_path: Path, loras: dict[str, Path]
) -> None:
    given = () if model is None else ("--model", model)
    out = exported(tmp_path / "out", f"{loras['native']}:0.5", "--to", "merged", *given)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "dit.safetensors"]
    where = changes(*combined([Weighted(adapter(PARAMS, 1), PARAMS, 0.5)]))
    base, found = load_file(BASE), load_file(out / "dit.safetensors")
    assert found.keys() == base.keys()
    for name, weight in base.items():
        assert torch.equal(found[name], merged(name, weight, where[name]) if name in where else weight), name
    assert report(out / "dit.safetensors").startswith(
        "dit.safetensors: transformer (DiT) with a LoRA in its weights, published names, fits nano\n"
    )
    load_dit("nano", out)


def in_diffusers_layout(folder: Path, limit: int | None = None) -> Path:
    """The transformer of nano under Diffusers' names, in one file or several."""
    folder.mkdir()
    state = dit_layout(load_file(BASE), preset_named("nano").dit.depth)
    sizes = {name: tensor.nbytes for name, tensor in state.items()}
    files = [Shard(WEIGHTS, tuple(state))] if limit is None else shards(sizes, limit)
    for shard in files:
        save_file({name: state[name] for name in shard.names}, folder / shard.file, metadata={"format": "pt"})
    if limit is not None:
        (folder / INDEX).write_text(index(sizes, files))
    return folder


def test_a_transformer_of_diffusers_becomes_the_published_file_bit_for_bit(tmp_path: Path) -> None:
    whole = in_diffusers_layout(tmp_path / "whole")
    pipeline = tmp_path / "pipeline"
    pipeline.mkdir()
    parts = in_diffusers_layout(pipeline / "transformer", limit=400_000)
    assert len(list(parts.glob("*.safetensors"))) > 4
    for number, given in enumerate((whole, whole / WEIGHTS, parts, pipeline, parts / INDEX)):
        out = exported(tmp_path / f"out{number}", given, "--to", "published")
        assert content(out / "dit.safetensors")[0] == content(BASE)[0]


def test_the_folder_for_diffusers_has_the_same_numbers_and_diffusers_reads_it(tmp_path: Path) -> None:
    out = exported(tmp_path / "out", BASE, "--to", "diffusers-folder")
    assert sorted(path.name for path in out.iterdir()) == sorted([WEIGHTS, "config.json", "README.md"])
    model, found = MochiTransformer3DModel.from_pretrained(
        out, output_loading_info=True, dtype=torch.bfloat16
    )
    assert {kind: len(names) for kind, names in found.items()} == dict.fromkeys(found, 0)
    expected = dit_layout(load_file(BASE), preset_named("nano").dit.depth)
    assert all(
        torch.equal(tensor, expected[name].to(tensor.dtype)) for name, tensor in model.state_dict().items()
    )


def test_the_card_says_from_what_with_what_command_and_for_what_it_was_made(
    tmp_path: Path, loras: dict[str, Path]
) -> None:
    out = exported(tmp_path / "a b", f"{loras['native']}:0.5", "--to", "merged", "--preset", "nano")
    fields, body = card(out)
    assert (fields["base_model"], fields["base_model_relation"]) == ("nano", "merge")
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (BASE, loras["native"])}
    size = (out / "dit.safetensors").stat().st_size
    for line in (
        f"| sha256 | {digests[BASE]} |",
        f"| {loras['native']} | weight 0.5, sha256 {digests[loras['native']]} |",
        f"| dit.safetensors | {size} | {hashlib.sha256((out / 'dit.safetensors').read_bytes()).hexdigest()} |",
        "| rank | 2 |",
        "| loras | native.safetensors:0.5 |",
    ):
        assert f"\n{line}\n" in body, line
    command = f"python -m mochi_trainer export {loras['native']}:0.5 --to merged --out '{out}' --preset nano"
    assert f"```bash\n{command}\n```" in body
    fields, body = card(exported(tmp_path / "native", loras["diffusers"], "--to", "native"))
    assert (fields["base_model_relation"], fields["tags"]) == ("adapter", ["text-to-video", "mochi", "lora"])
    assert "| steps | 6 |" in body
    command = "python -m mochi_trainer sample --preset nano --frames 7 --width 112 --height 64 --fps 30"
    assert f'{command} --lora lora-comfyui.safetensors --prompt "..."' in body
    fields, body = card(
        exported(tmp_path / "published", in_diffusers_layout(tmp_path / "x"), "--to", "published")
    )
    assert "base_model_relation" not in fields


def test_what_was_made_is_told_as_json_lines(
    tmp_path: Path, loras: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(tmp_path / "out", loras["native"], "--to", "diffusers") / "lora.safetensors"
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "file": str(out),
            "sizeBytes": out.stat().st_size,
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        }
    ]


REFUSED = {
    "no file": (["absent.safetensors", "--to", "native"], 3, "absent.safetensors does not exist"),
    "no lora": ([BASE, "--to", "native"], 2, "dit.safetensors cannot be used as a LoRA"),
    "weight": (["absent.safetensors:heavy", "--to", "native"], 2, "FILE must be FILE or FILE:WEIGHT"),
    "no weight": ([f"{BASE}:nan", "--to", "native"], 2, "the weight of FILE must be a finite number"),
    "no end": ([f"{BASE}:inf", "--to", "native"], 2, "the weight of FILE must be a finite number"),
    "device": (["/dev/null", "--to", "native"], 2, "/dev/null is neither a file nor a folder"),
    "long": (["x" * 5000, "--to", "native"], 2, "File name too long"),
    "already": ([BASE, "--to", "published"], 2, "takes a transformer with diffusers names"),
    "two": ([BASE, BASE, "--to", "published"], 2, "--to published takes one FILE, got 2"),
    "encoder": ([NANO_FOLDER / "encoder.safetensors", "--to", "published"], 2, "no transformer of this model but a encoder"),
    "folder": ([NANO_FOLDER / "t5", "--to", "published"], 3, "has neither dit.safetensors nor"),
    "preset": ([BASE, "--to", "diffusers-folder", "--preset", "mochi-1"], 2, "has the sizes of nano, --preset says mochi-1"),
    "model": ([BASE, "--to", "published", "--model", "x"], 2, "--model is for --to merged only, got --to published"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_named_and_nothing_is_left(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, message = REFUSED[case]
    assert main(["export", *map(str, arguments), "--out", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_bases_that_do_not_fit_are_named(
    tmp_path: Path, loras: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        words = [str(loras["native"]), "--to", "merged", *map(str, arguments), "--out", str(tmp_path / "out")]
        assert main(["export", *words]) == 2
        return capsys.readouterr().err

    assert "--model is required: preset mochi-1 brings no weights" in refused("--preset", "mochi-1")
    theirs = in_diffusers_layout(tmp_path / "theirs")
    assert f"make them with export {theirs} --to published" in refused("--model", theirs)
    lacking = load_file(BASE)
    del lacking["x_embedder.proj.bias"]
    save_file(lacking, tmp_path / "dit.safetensors")
    assert "does not fit nano: x_embedder.proj.bias is missing, 1 such tensors" in refused(
        "--model", tmp_path
    )
    (theirs / INDEX).write_text("[]")
    assert "cannot be read as an index" in refused("--model", theirs)


def test_a_folder_with_files_is_never_written_into(
    tmp_path: Path, loras: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    for out, message in (
        (tmp_path, "--out must be a new or an empty folder"),
        (tmp_path / "lora.safetensors", "--out must be a folder, got"),
        (tmp_path / "mine.txt", "--out must be a folder, got"),
        (tmp_path / "mine.txt" / "below", "cannot be made: File exists"),
    ):
        assert main(["export", str(loras["native"]), "--to", "diffusers", "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    exported(tmp_path / "empty", loras["native"], "--to", "diffusers")


def test_a_lora_of_another_tool_goes_to_both_formats_with_its_effect(
    tmp_path: Path, loras: dict[str, Path]
) -> None:
    """peft's folder: its alpha is twice the rank."""
    given, tensors = tmp_path / "peft", load_file(loras["diffusers"])
    given.mkdir()
    renamed = {name.replace("transformer.", "base_model.model.", 1): t for name, t in tensors.items()}
    save_file(renamed, given / "adapter_model.safetensors")
    (given / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    out = exported(tmp_path / "out", f"{given}:0.5", "--to", "diffusers") / "lora.safetensors"
    found = load_file(out)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    native = exported(tmp_path / "native", given, "--to", "native", "--preset", "nano")
    assert report(native / "lora-comfyui.safetensors").startswith(
        "lora-comfyui.safetensors: LoRA, native, fused names, fits nano\n"
    )


def test_what_is_no_lora_of_this_model_ends_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for name, words in (
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "it is a LoRA of Wan; use it with that model"),
        ("transformer.transformer_blocks.0.attn1.to_q.lora_magnitude_vector", "it is a DoRA"),
    ):
        save_file({name: torch.zeros(2, 2)}, given / "lora.safetensors")
        for command in (
            ["export", str(given), "--to", "native", "--out", str(tmp_path / "out")],
            ["sample", "--prompt", "x", "--lora", str(given), "--out", str(tmp_path / "out")],
        ):
            assert main(command) == 2
            assert words in capsys.readouterr().err
    (given / "other.safetensors").write_bytes(b"")
    assert main(["export", str(given), "--to", "native", "--out", str(tmp_path / "out")]) == 2
    assert "name one: lora.safetensors, other.safetensors" in capsys.readouterr().err
