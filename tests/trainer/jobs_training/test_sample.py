"""Sampling uses what training left, and the same seed gives the same video."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi_api.outcomes import SampleResult
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.jobs import sample
from mochi_trainer.lora import LoraParams, adapter_state, attach, export_diffusers
from mochi_trainer.video import probe
from mochi_trainer.weights import load_dit
from tests.trainer.training_runs import run_file, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose training has ended: an adapter that does something."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sampling")
    write_dataset(folder)
    params = LoraParams(rank=4, alpha=8)
    model = load_dit("nano")
    attach(model, params)
    state = {name: torch.randn_like(tensor) * 0.2 for name, tensor in adapter_state(model).items()}
    path = folder / "runs/run/artifacts/lora.safetensors"
    path.parent.mkdir(parents=True)
    save_file(export_diffusers(state, params), path, metadata={"targets": "query,value"})
    return folder


def test_the_first_caption_is_the_prompt_when_there_is_none(root: Path) -> None:
    run = run_file(root)
    finished = sample.execute(run)
    assert finished.result == SampleResult(sampleURIs=[f"{run.locations.run}/samples/sample-00.mp4"])
    assert [each["prompt"] for each in finished.details["samples"]] == ["caption of clip-0"]
    video = root / "runs/run/samples/sample-00.mp4"
    found = probe(video)
    assert (found.width, found.height) == (48, 32)
    assert (root / "runs/run/samples/sample-00.png").read_bytes().startswith(b"\x89PNG")
    before = video.read_bytes()
    sample.execute(run)
    assert video.read_bytes() == before


def test_the_adapter_changes_the_video(root: Path) -> None:
    sample.execute(run_file(root))
    tuned = (root / "runs/run/samples/sample-00.mp4").read_bytes()
    path = root / "runs/run/artifacts/lora.safetensors"
    idle = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
    other = root / "runs/idle/artifacts/lora.safetensors"
    other.parent.mkdir(parents=True)
    save_file(idle, other, metadata={"targets": "query,value"})
    sample.execute(run_file(root, name="idle"))
    assert (root / "runs/idle/samples/sample-00.mp4").read_bytes() != tuned


def test_a_missing_artifact_is_named(root: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"runs/absent/artifacts/lora\.safetensors does not exist"):
        sample.execute(run_file(root, name="absent"))


def test_an_adapter_of_another_model_is_refused(root: Path) -> None:
    path = root / "runs/foreign/artifacts/lora.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"unet.down.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InvalidInputError, match=r"unet\.down\.lora_A\.weight is no adapter of this model"):
        sample.execute(run_file(root, name="foreign"))
