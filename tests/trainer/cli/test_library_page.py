"""The lines of the page on library use run as they stand, and are fewer than ten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi_trainer.lora import LoraParams, adapter_state, attach, export_diffusers, read_file
from mochi_trainer.video import probe
from mochi_trainer.weights import load_dit
from tests.trainer.numerics import draw


def adapter(folder: Path, strength: float) -> None:
    model, params = load_dit("nano"), LoraParams(rank=2, alpha=2)
    attach(model, params)
    state = {
        name: strength * draw(*tensor.shape, seed=index, dtype=torch.float32)
        for index, (name, tensor) in enumerate(adapter_state(model).items())
    }
    save_file(export_diffusers(state, params), folder / "lora.safetensors")


def lines(project: Path, number: int = 0) -> str:
    page = (project / "docs/how-to/use-as-a-library.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    return blocks[number]


def test_loading_attaching_and_sampling_take_fewer_than_ten_lines(project: Path) -> None:
    assert len([line for line in lines(project).splitlines() if line.strip()]) < 10


def test_the_lines_make_a_video_that_the_lora_changes(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    made = []
    for strength in (0.0, 0.3):
        adapter(tmp_path, strength)
        exec(compile(lines(project), "use-as-a-library.md", "exec"), {})
        made.append((tmp_path / "sample.mp4").read_bytes())
    found = probe(tmp_path / "sample.mp4")
    assert (found.width, found.height) == (112, 64)
    assert made[0] != made[1]


def test_the_lines_on_merging_write_both_files(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path, 0.3)
    exec(compile(lines(project, 1), "use-as-a-library.md", "exec"), {})
    (ours, params), (native, found) = read_file("lora.safetensors"), read_file("lora-comfyui.safetensors")
    assert found == params
    assert all(torch.equal(native[name], tensor) for name, tensor in ours.items())
    base, merged = load_dit("nano").state_dict(), load_file("dit-merged.safetensors")
    changed = {name for name, tensor in merged.items() if not torch.equal(tensor, base[name])}
    assert changed == {name for name in base if name.endswith("attn.qkv_x.weight")}
