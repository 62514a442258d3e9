"""Diffusers makes the samples of a run's report again, by the lines in the run's card: a LoRA, and all weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import MochiTransformer3DModel
from torch import Tensor

from demo.nano.clips import drawn_subject
from mochi_api.runfile import RunFile
from mochi_trainer import seeds, vae
from mochi_trainer.jobs import sample, sampling, train
from mochi_trainer.video import Cut, read_clip
from mochi_trainer.weights import load_dit
from tests.trainer.distributed import free_port
from tests.trainer.numerics import difference, draw
from tests.trainer.training_runs import run_file, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore")
PROMPTS = [drawn_subject(seeds.stream(7, "sample", step=number)).caption for number in range(10)]
PROMPTS[8:] = [f" {PROMPTS[8]}\n", "  "]
TARGETS = ["query", "key", "value", "output", "mlp_in", "mlp_out", "text_query", "text_output", "text_mlp_in"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFile]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("again")
    write_dataset(folder)
    return {mode: trained(folder, mode) for mode in ("lora", "full")}


def trained(root: Path, mode: str) -> RunFile:
    """A run of a few steps whose report has samples for ten prompts."""
    adapter = {"lora": {"rank": 4, "alpha": 8, "targets": TARGETS}} if mode == "lora" else {}
    rate = "0.004" if mode == "lora" else "0.001"  # as in the examples
    run = run_file(root, name=mode, mode=mode, steps=12, learningRate=rate, **adapter)
    wanted = run.sampling.model_validate({"prompts": PROMPTS, "steps": 10, "guidance": "6", "seed": 3})
    run = run.model_copy(update={"sampling": wanted})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOCHI_METRICS_PORT", str(free_port()))
        train.execute(run)
    return run


def folder_of(run: RunFile) -> Path:
    return Path(run.locations.run.removeprefix("file://"))


def latents_of(module: ModuleType, make: Callable[[], object]) -> list[Tensor]:
    """The latents that go to the decoder through `module` while `make` makes videos."""
    seen: list[Tensor] = []
    denormalise = vae.denormalise

    def noted(z: Tensor, statistics: vae.LatentStatistics) -> Tensor:
        seen.append(z.clone())
        return denormalise(z, statistics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "denormalise", noted)
        make()
    return seen


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_the_lines_of_the_card_make_the_samples_of_the_report_again(
    runs: dict[str, RunFile], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = latents_of(sampling, lambda: sample.execute(runs[mode]))
    folder = folder_of(runs[mode])
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "artifacts/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder / "artifacts")
    theirs = latents_of(vae, lambda: exec(compile(code, "README.md", "exec"), {}))
    assert len(ours) == len(theirs) == len(PROMPTS)
    for number, (made, again) in enumerate(zip(ours, theirs, strict=True)):
        assert difference(again, made) <= 2e-5, PROMPTS[number]
        name = f"sample-{number:02d}.mp4"
        assert alike(folder / "samples" / name, folder / "artifacts" / name), name
    assert difference(ours[0], ours[1]) > 0.1


def alike(first: Path, second: Path) -> bool:
    """Whether two videos of a run show the same: one pixel that is rounded the other way makes x264 choose otherwise."""
    cut = Cut(frames=7, least=7, fps=30, width=48, height=32)
    one, other = (torch.from_numpy(read_clip(path, cut).frames.copy()).float() for path in (first, second))
    return float((one - other).square().mean()) <= 255**2 / 10**3  # 30 dB


def test_the_folder_of_a_full_run_has_the_velocity_of_its_weights(runs: dict[str, RunFile]) -> None:
    artifacts = folder_of(runs["full"]) / "artifacts"
    ours = load_dit("nano", artifacts)
    theirs = MochiTransformer3DModel.from_pretrained(artifacts / "transformer").eval()
    x, text = draw(1, 12, 3, 8, 14, dtype=torch.float32), draw(1, 9, 64, seed=1, dtype=torch.float32)
    mask = torch.ones(1, 9, dtype=torch.bool)
    with torch.no_grad():
        reference = theirs(
            x, text, timestep=torch.tensor([700.0]), encoder_attention_mask=mask, return_dict=False
        )[0]
        assert difference(ours(x, torch.tensor([0.3]), text), reference) <= 1e-5
        assert difference(load_dit("nano")(x, torch.tensor([0.3]), text), reference) > 1e-3
