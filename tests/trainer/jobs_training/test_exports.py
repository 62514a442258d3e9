"""What a run stores when it is done: merged weights on request, a folder for Diffusers, and the card of them all."""

from __future__ import annotations

import copy
import hashlib
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from diffusers import MochiTransformer3DModel
from safetensors.torch import load_file, save_file

from mochi_api.runfile import RunFile
from mochi_api.spec import ModelSpec
from mochi_trainer.errors import DiskFullError
from mochi_trainer.exports import run_exports
from mochi_trainer.exports.artifacts import store_weights
from mochi_trainer.jobs import train
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.lora import load_file as load_lora
from mochi_trainer.lora import read_file
from mochi_trainer.lora.merging import changes, merged
from mochi_trainer.parallel.group import Group, joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import shard
from mochi_trainer.presets.catalogue import NANO_DIT, NANO_FOLDER
from mochi_trainer.storage import open_store, require_space, space
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights import identity, load_dit
from mochi_trainer.weights.diffusers_layout import dit_layout
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.numerics import TINY, difference, draw, tiny_dit
from tests.trainer.training_runs import KEY, run_file, write_dataset

LORA: dict[str, Any] = {"rank": 4, "alpha": 6, "targets": ["query", "mlp_in", "text_output"]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def finished(root: Path) -> Finished:
    """A LoRA run that was asked for merged weights."""
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    return train.execute(run_file(root, name="merging", lora=LORA | {"exportMerged": True}))


@pytest.fixture
def artifacts(root: Path, finished: Finished) -> Path:
    return root / "runs/merging/artifacts"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_merged_weights_are_the_base_with_the_adapter_added_and_nothing_else(artifacts: Path) -> None:
    base, found = load_file(NANO_FOLDER / "dit.safetensors"), load_file(artifacts / "dit-merged.safetensors")
    where = changes(*read_file(artifacts / "lora.safetensors"))
    assert len(where) == 3 + 3 + 2
    assert found.keys() == base.keys()
    for name, weight in base.items():
        expected = merged(name, weight, where[name]) if name in where else weight
        assert (found[name].dtype, torch.equal(found[name], expected)) == (weight.dtype, True), name
        assert torch.equal(found[name], weight) == (name not in where), name


def test_merged_weights_of_a_float32_base_give_the_velocity_of_the_adapter(
    root: Path, tmp_path: Path
) -> None:
    given, made = tmp_path / "given", tmp_path / "made"
    for folder in (given, made):
        folder.mkdir()
    state = load_file(NANO_FOLDER / "dit.safetensors")
    save_file({name: tensor.float() for name, tensor in state.items()}, given / "dit.safetensors")
    run = run_file(root, name="float32", lora=LORA | {"exportMerged": True})
    model = run.locations.model_copy(update={"model": f"file://{given}"})
    train.execute(run.model_copy(update={"locations": model}))
    artifacts = root / "runs/float32/artifacts"
    (made / "dit.safetensors").write_bytes((artifacts / "dit-merged.safetensors").read_bytes())
    alone, beside, plain = (load_dit("nano", folder) for folder in (made, given, given))
    load_lora(beside, artifacts / "lora.safetensors")
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    with torch.no_grad():
        ours, theirs, base = (model(x, torch.tensor([0.4]), text) for model in (alone, beside, plain))
    assert difference(ours, theirs) <= 2e-5
    assert difference(base, theirs) > 1e-4


def test_without_the_wish_there_are_no_merged_weights(root: Path) -> None:
    train.execute(run_file(root, name="plain", steps=1))
    assert sorted(path.name for path in (root / "runs/plain/artifacts").iterdir()) == [
        "README.md",
        "lora-comfyui.safetensors",
        "lora.safetensors",
    ]


def in_s3(run: RunFile, server: Server, *, prefix: str) -> RunFile:
    """The run with its model in S3."""
    address = f"s3://{BUCKET}/{prefix}"
    source = ModelSpec.model_validate({"preset": "nano", "source": {"s3": {"uri": address}}})
    locations = run.locations.model_copy(update={"model": address})
    return run.model_copy(update={"s3": server.spec, "model": source, "locations": locations})


def test_a_base_in_the_files_of_diffusers_gives_the_same_merged_weights(
    root: Path, s3_server: Server, artifacts: Path, tmp_path: Path
) -> None:
    state = dit_layout(load_file(NANO_FOLDER / "dit.safetensors"), depth=NANO_DIT.depth)
    save_file(state, tmp_path / "model.safetensors")
    store = open_store(f"s3://{BUCKET}/models/nano-diffusers", s3_server.spec)
    store.put(tmp_path / "model.safetensors", "transformer/diffusion_pytorch_model.safetensors")
    run = run_file(root, name="s3-diffusers", lora=LORA | {"exportMerged": True})
    train.execute(in_s3(run, s3_server, prefix="models/nano-diffusers"))
    found = load_file(root / "runs/s3-diffusers/artifacts/dit-merged.safetensors")
    expected = load_file(artifacts / "dit-merged.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_base_in_s3_is_merged_in_its_own_type_and_named_in_the_card(root: Path, s3_server: Server) -> None:
    store = open_store(f"s3://{BUCKET}/models/nano", s3_server.spec)
    store.put(NANO_FOLDER / "dit.safetensors", "dit.safetensors")
    run = run_file(root, name="s3", steps=1, lora=LORA | {"exportMerged": True})
    train.execute(in_s3(run, s3_server, prefix="models/nano"))
    folder = root / "runs/s3/artifacts"
    assert (
        load_file(folder / "dit-merged.safetensors").keys()
        == load_file(NANO_FOLDER / "dit.safetensors").keys()
    )
    card = (folder / "README.md").read_text()
    assert f"| source | s3://{BUCKET}/models/nano |" in card
    assert re.search(r"\| identity \| nano-[0-9a-f]{32} \|", card)


def test_a_disk_that_cannot_hold_the_merged_weights_is_told_before_the_training(
    root: Path, tmp_path: Path
) -> None:
    size = 1 << 43
    with (tmp_path / "dit.safetensors").open("wb") as file:
        file.truncate(size)  # a hole: it takes no room
    run = run_file(root, name="full-disk", lora=LORA | {"exportMerged": True})
    model = run.locations.model_copy(update={"model": f"file://{tmp_path}"})
    with pytest.raises(
        DiskFullError, match=r"the export of mode lora after the training needs 8\.19e\+03 GiB, .* GiB free"
    ):
        train.execute(run.model_copy(update={"locations": model}))
    assert not (root / "runs/full-disk").exists()


def test_room_is_asked_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1, "one byte")
    with pytest.raises(DiskFullError, match=r"all bytes needs 1\.07e\+09 GiB, .*not/yet has"):
        require_space(tmp_path / "not" / "yet", 1 << 60, "all bytes")


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def rows(body: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = body.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_card_has_what_hubs_and_people_look_for(root: Path, finished: Finished, artifacts: Path) -> None:
    fields, body = front_matter((artifacts / "README.md").read_text())
    assert fields == {
        "license": "apache-2.0",
        "base_model": "nano",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-video",
        "tags": ["text-to-video", "mochi", "lora"],
    }
    assert "\n# merging: LoRA for nano\n" in body
    assert rows(body, "Base") == [
        ["preset", "nano"],
        ["source", "weights in the trainer's package"],
        ["identity", identity("nano", None, ["dit"])],
    ]
    assert rows(body, "Dataset") == [
        ["source", "PersistentVolumeClaim clips, /"],
        ["clips", "3"],
        ["latents (cache key of the stage videos)", KEY],
        ["captions (cache key of the stage captions)", KEY],
    ]
    settings = dict(rows(body, "Settings"))
    expected = {
        "mode": "lora",
        "preprocessing.frames": "7", "preprocessing.width": "48", "preprocessing.height": "32", "preprocessing.fps": "30",
        "training.steps": "6", "training.learningRate": "0.002", "training.warmupSteps": "2", "training.schedule": "Cosine",
        "training.weightDecay": "0.01", "training.globalBatchSize": "2", "training.gradientClip": "1.0", "training.captionDropout": "0.3",
        "training.contextParallel": "1", "training.seed": "42", "training.lora.blocksToSwap": "0", "training.lora.rank": "4", "training.lora.alpha": "6", "training.lora.rsLora": "false",
        "training.lora.dropout": "0", "training.lora.targets": "query, mlp_in, text_output", "training.lora.baseWeights": "BFloat16",
        "training.lora.exportMerged": "true",
        "training.checkpoint.everySteps": "2", "training.checkpoint.keepLast": "10",
    }  # fmt: skip
    assert settings == expected
    metrics, details = dict(rows(body, "Metrics")), finished.details
    seconds = metrics.pop("duration of all steps")
    assert re.fullmatch(r"\d+\.\d s", seconds)
    assert finished.result is not None
    assert metrics == {
        "steps": "6",
        "loss of the last step": f"{finished.result.final_loss:.6g}",  # type: ignore[union-attr]
        "loss of the fixed batch, before": f"{details['fixedLossBefore']:.6g}",
        "loss of the fixed batch, after": f"{details['fixedLossAfter']:.6g}",
        "steps skipped (loss or gradient not finite)": "0",
        "trained parameters": f"{details['trainedParameters']:,}",
        "device": "CPU",
    }
    names = ("lora.safetensors", "lora-comfyui.safetensors", "dit-merged.safetensors")
    assert rows(body, "Files") == [
        [name, str((artifacts / name).stat().st_size), digest(artifacts / name)] for name in names
    ]
    assert f"cp {root}/runs/merging/run.yaml run.yaml\npython -m mochi_trainer train --run run.yaml\n" in body
    sampled = "python -m mochi_trainer sample --preset nano --frames 7 --width 48 --height 32 --fps 30"
    assert f'{sampled} --lora lora.safetensors --prompt "..."\n' in body


def test_the_other_files_are_in_the_record_of_the_stage(root: Path, finished: Finished) -> None:
    folder = root / "runs/merging/artifacts"
    assert finished.details["otherFiles"] == [
        {"uri": f"file://{folder}/{name}", "sizeBytes": (folder / name).stat().st_size}
        for name in ("lora-comfyui.safetensors", "dit-merged.safetensors")
    ]


def _full(root: Path) -> list[str]:
    """All weights of the small transformer, sharded, stored by this rank."""
    ranks = ranks_of(os.environ, processes=2)
    with joined(ranks, torch.device("cpu"), limit=60) as group:
        model = copy.deepcopy(tiny_dit(torch.float32)).requires_grad_(True)
        shard(model, group, device=torch.device("cpu"), compute=torch.float32)
        run = run_file(root, mode="full", name="tiny", replicas=2)
        store = LocalStore(root / "runs/tiny")
        return [file.name for file in store_weights(store, run, model, group, torch.float32, steps=3)]


@pytest.mark.filterwarnings("ignore:.*In CPU autocast:UserWarning")
def test_a_full_run_on_two_ranks_leaves_a_folder_that_diffusers_loads_strictly(tmp_path: Path) -> None:
    first, second = run_distributed(_full, 2, tmp_path)
    assert first == [
        "dit.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "transformer/config.json",
    ]
    assert second == []
    folder, ours = tmp_path / "runs/tiny/artifacts", tiny_dit(torch.float32)
    state = ours.state_dict()
    stored = load_file(folder / "dit.safetensors")
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)
    theirs, info = MochiTransformer3DModel.from_pretrained(
        folder / "transformer", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert {kind: len(names) for kind, names in info.items()} == dict.fromkeys(info, 0)
    expected, found = dit_layout(state, TINY.depth), dict(theirs.state_dict())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    x, text = draw(1, 12, 2, 4, 6, dtype=torch.float32), draw(1, 5, 64, seed=1, dtype=torch.float32)
    mask, timestep = torch.ones(1, 5, dtype=torch.bool), torch.tensor([600.0])
    with torch.no_grad():
        reference = theirs.eval()(x, text, timestep=timestep, encoder_attention_mask=mask, return_dict=False)
        assert difference(ours(x, torch.tensor([0.4]), text), reference[0]) <= 2e-5


def test_tuned_weights_go_out_in_bfloat16_but_for_the_frequencies(tmp_path: Path) -> None:
    run = run_file(tmp_path, mode="full", name="tiny")
    model = copy.deepcopy(tiny_dit(torch.float32))
    store_weights(LocalStore(tmp_path), run, model, Group(), torch.bfloat16, steps=3)
    for name in ("dit.safetensors", "transformer/diffusion_pytorch_model.safetensors"):
        kinds = {key: tensor.dtype for key, tensor in load_file(tmp_path / "artifacts" / name).items()}
        assert kinds.pop("pos_frequencies") == torch.float32
        assert set(kinds.values()) == {torch.bfloat16}


def test_a_disk_that_cannot_hold_the_adapters_files_is_told_before_the_training(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the published model and the highest rank they take gigabytes; here they are compared with those of nano."""
    run = run_file(root, name="small-disk", steps=1, lora=LORA)
    train.execute(run)
    folder = root / "runs/small-disk/artifacts"
    written = sum(path.stat().st_size for path in folder.glob("lora*.safetensors"))
    need = run_exports.export_room(run, None)
    assert 0.9 * written <= need <= written
    large = run.model_copy(update={"model": run.model.model_copy(update={"preset": "mochi-1"})})
    free = run_exports.export_room(large, None) - 1
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    run_exports.require_room(run)
    with pytest.raises(DiskFullError, match="the export of mode lora after the training needs"):
        run_exports.require_room(large)
