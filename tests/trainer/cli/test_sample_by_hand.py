"""`sample` without a run file: prompts, weights and LoRAs from the command line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mochi_trainer.__main__ import main
from mochi_trainer.jobs import sample
from mochi_trainer.jobs.sample_by_hand import _bar
from mochi_trainer.jobs.sampling import Moment
from mochi_trainer.lora import (
    LoraParams,
    adapter_state,
    attach,
    attach_state,
    export_diffusers,
    export_native,
)
from mochi_trainer.lora.combination import Weighted, combined
from mochi_trainer.presets.catalogue import NANO_DIT, NANO_FOLDER
from mochi_trainer.video import probe
from mochi_trainer.weights import load_dit
from tests.trainer.numerics import difference, draw
from tests.trainer.training_runs import run_file

PROMPT = "a red circle moves right over a black ground"
SMALL = ["--frames", "7", "--width", "48", "--height", "32", "--steps", "3"]
PARAMS = LoraParams(rank=2, alpha=4, targets=("query", "value", "text_output"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Logging is as before afterwards."""
    torch.set_num_threads(1)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def adapter(seed: int, params: LoraParams = PARAMS) -> dict[str, torch.Tensor]:
    model = load_dit("nano")
    attach(model, params)
    return {
        name: 0.3 * draw(*tensor.shape, seed=100 * seed + index, dtype=torch.float32)
        for index, (name, tensor) in enumerate(adapter_state(model).items())
    }


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loras")
    state = adapter(1)
    tensors, metadata = export_native(state, PARAMS)
    files = {"diffusers": folder / "lora.safetensors", "native": folder / "lora-comfyui.safetensors"}
    save_file(export_diffusers(state, PARAMS), files["diffusers"])
    save_file(tensors, files["native"], metadata=metadata)
    return files


def made(out: Path, *arguments: str) -> bytes:
    assert main(["sample", "--prompt", PROMPT, *SMALL, "--out", str(out), *arguments]) == 0
    return (out / "sample-00.mp4").read_bytes()


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        made(tmp_path / name, "--seed", seed) for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first == again
    assert first != other
    assert (tmp_path / "a/sample-00.png").read_bytes() == (tmp_path / "b/sample-00.png").read_bytes()


def test_what_was_made_is_told_as_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\n  two \n")
    made(tmp_path / "out", "--prompts", str(tmp_path / "prompts.txt"), "--seed", "3")
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {
            "prompt": prompt,
            "video": f"{tmp_path}/out/sample-{number:02d}.mp4",
            "sheet": f"{tmp_path}/out/sample-{number:02d}.png",
            "seed": 3,
        }
        for number, prompt in enumerate((PROMPT, "one", "two"))
    ]
    progress = [json.loads(line)["message"] for line in captured.err.splitlines()]
    assert "video 3 of 3: step 3 of 3" in progress
    found = probe(tmp_path / "out/sample-02.mp4")
    assert (found.width, found.height) == (48, 32)


def test_a_run_file_and_the_command_line_make_the_same_video(tmp_path: Path, loras: dict[str, Path]) -> None:
    run = run_file(tmp_path, prompts=[PROMPT])
    artifact = tmp_path / "runs/run/artifacts/lora.safetensors"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(loras["diffusers"].read_bytes())
    sample.execute(run)
    by_hand = made(
        tmp_path / "out",
        "--lora",
        str(loras["diffusers"]),
        "--steps",
        "4",
        "--guidance",
        "3",
        "--seed",
        "12345",
    )
    assert by_hand == (tmp_path / "runs/run/samples/sample-00.mp4").read_bytes()


def test_both_formats_of_a_lora_make_the_same_video(tmp_path: Path, loras: dict[str, Path]) -> None:
    ours, native, base = (
        made(tmp_path / "1", "--lora", str(loras["diffusers"])),
        made(tmp_path / "2", "--lora", str(loras["native"])),
        made(tmp_path / "3"),
    )
    assert ours == native
    assert ours != base
    assert made(tmp_path / "4", "--lora", f"{loras['native']}:0") == base


def test_fast_means_eight_steps_with_guidance_one_and_a_half(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size, out = SMALL[:6], str(tmp_path / "out")
    assert main(["sample", "--prompt", PROMPT, *size, "--fast", "--out", out]) == 0
    assert "step 8 of 8" in capsys.readouterr().err
    fast = (tmp_path / "out/sample-00.mp4").read_bytes()
    assert main(["sample", "--prompt", PROMPT, *size, "--fast", "--guidance", "1.5", "--out", out]) == 0
    assert (tmp_path / "out/sample-00.mp4").read_bytes() == fast
    assert main(["sample", "--prompt", PROMPT, *size, "--steps", "8", "--guidance", "1.5", "--out", out]) == 0
    assert (tmp_path / "out/sample-00.mp4").read_bytes() != fast


def velocity(*adapters: Weighted) -> torch.Tensor:
    model = load_dit("nano")
    if adapters:
        attach_state(model, *combined(adapters))
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    with torch.no_grad():
        return model(x, torch.tensor([0.4]), text)


def merged(*adapters: Weighted) -> torch.Tensor:
    """The same by adding every product to the weights."""
    model = load_dit("nano")
    with torch.no_grad():
        for each in adapters:
            tensors, _ = export_native(each.state, each.params)
            for name, a in tensors.items():
                if name.endswith("lora_A"):
                    layer = model.get_submodule(name.removesuffix(".lora_A"))
                    layer.weight += each.weight * tensors[name.replace("lora_A", "lora_B")] @ a
        x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
        return model(x, torch.tensor([0.4]), text)


def test_weighted_loras_of_other_ranks_and_targets_add_up() -> None:
    other = LoraParams(rank=3, alpha=3, targets=("key", "value"))
    both = Weighted(adapter(1), PARAMS, 0.5), Weighted(adapter(2, other), other, -0.25)
    assert difference(velocity(*both), merged(*both)) <= 2e-5
    assert difference(velocity(both[0]), merged(*both)) > 1e-3
    state, params = combined(both)
    assert params == LoraParams(rank=5, alpha=5, targets=("query", "key", "value", "text_output"))
    assert combined([both[0]])[0].keys() == both[0].state.keys()
    depth = NANO_DIT.depth
    assert len(state) == 2 * (3 * depth + (depth - 1))  # the last block leaves the text alone


REFUSED = {
    "frames": (["--frames", "8"], 2, "frames must be 1 more than a multiple of 6, got 8"),
    "width": (["--width", "40"], 2, "width must be a multiple of 16, got 40"),
    "steps": (["--steps", "0"], 2, "--steps: input should be greater than or equal to 1, got 0"),
    "one step": (["--steps", "6", "--fast"], 2, "steps cannot be 6"),
    "seed": (["--seed", "-1"], 2, "--seed: input should be greater than or equal to 0, got -1"),
    "large seed": (["--seed", str(1 << 31)], 2, "--seed: input should be less than or equal to 2147483647"),
    "guidance": (["--guidance", "nan"], 2, "--guidance"),
    "endless guidance": (["--guidance", "inf"], 2, "--guidance"),
    "large guidance": (["--guidance", "101"], 2, "--guidance"),
    "fps": (["--fps", "0"], 2, "fps must be at least 1, got 0"),
    "weight": (["--lora", "absent.safetensors:heavy"], 2, "must be FILE or FILE:WEIGHT"),
    "no lora": (["--lora", "absent.safetensors:0.5"], 3, "absent.safetensors does not exist"),
    "no adapter": (["--lora", f"{NANO_FOLDER}/dit.safetensors"], 2, "is no adapter of this model"),
    "no model": (["--model", "/nowhere"], 3, "/nowhere/t5/config.json does not exist"),
    "no prompts": (["--prompts", "absent.txt"], 3, "absent.txt does not exist"),
    "no UTF-8": (["--prompt", "caf\udce9"], 2, r"a prompt must be text in UTF-8, got 'caf"),
    "run too": (["--run", "run.yaml"], 2, "--run and --prompt exclude each other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_named_before_any_work(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, message = REFUSED[case]
    assert main(["sample", "--prompt", PROMPT, *SMALL, "--out", str(tmp_path / "out"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_of_prompts_may_begin_as_windows_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_bytes(f"\ufeff{PROMPT}\u2028\r\n\r\n".encode())
    assert main(["sample", "--prompts", str(tmp_path / "prompts.txt"), *SMALL, "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == PROMPT


def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere"), Path("x" * 300)):
        assert main(["sample", "--prompt", PROMPT, *SMALL, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"--out must be a folder that can be written, got {out}" in error
        assert "video 1 of 1" not in error
        assert "storage.s3" not in error


def test_a_video_that_is_no_number_is_none(
    tmp_path: Path, loras: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    strong = f"{loras['diffusers']}:1e30"
    assert main(["sample", "--prompt", PROMPT, *SMALL, "--lora", strong, "--out", str(tmp_path)]) == 8
    assert "video 1 of 1 is not finite after 3 steps with guidance 6" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_lora_of_another_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = export_diffusers(adapter(1), PARAMS)
    wide = {name: torch.cat([t, t], dim=1) if "lora_A" in name else t for name, t in tensors.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    arguments = ["--lora", str(tmp_path / "wide.safetensors"), "--out", str(tmp_path / "out")]
    assert main(["sample", "--prompt", PROMPT, *SMALL, *arguments]) == 2
    assert "the LoRAs do not fit nano: " in capsys.readouterr().err


def test_a_terminal_sees_a_bar_that_fills() -> None:
    stream = io.StringIO()
    bar = _bar(stream)
    for video in (1, 2):
        for step in (1, 2):
            bar(Moment(video, 2, step, 2))
    lines = stream.getvalue().split("\r")[1:]
    assert len(lines) == 4
    assert lines[1].startswith("[###############               ]  50% video 1 of 2, step 2 of 2, ")
    assert lines[-1].startswith(f"[{'#' * 30}] 100% ")
    assert lines[-1].endswith("\n")


def test_the_attention_backend_is_checked_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCHI_ATTENTION", "fastest")
    assert main(["sample", "--prompt", PROMPT, *SMALL, "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
