"""A run is the same wherever its weights come from, and says early when they are not there or cannot be used."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi_api.runfile import RunFile
from mochi_trainer.__main__ import main
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.jobs import sample, train
from mochi_trainer.presets import preset_named
from mochi_trainer.presets.catalogue import NANO_FOLDER
from mochi_trainer.storage import open_store
from mochi_trainer.weights.diffusers_layout import decoder_table, diffusers_layout, dit_layout, encoder_table
from mochi_trainer.weights.of_run import model_identity
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import run_distributed
from tests.trainer.loading import write_shards
from tests.trainer.training_runs import run_file, write_dataset

FULL: dict[str, Any] = {"mode": "full", "globalBatchSize": 2, "steps": 2, "learningRate": "0.001"}
SMALL = ["--frames", "7", "--width", "48", "--height", "32", "--steps", "2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory, s3_server: Server) -> dict[str, str]:
    """`nano` in Diffusers' layout, the transformer in several files: in a folder and in S3."""
    folder, preset = tmp_path_factory.mktemp("model"), preset_named("nano")
    dit = dit_layout(load_file(NANO_FOLDER / "dit.safetensors"), preset.dit.depth)
    write_shards(dit, folder / "transformer/diffusion_pytorch_model", 3)
    tables = {"encoder": encoder_table(preset.encoder), "decoder": decoder_table(preset.decoder)}
    (folder / "vae").mkdir()
    save_file(
        {
            f"{half}.{name}": tensor
            for half, table in tables.items()
            for name, tensor in diffusers_layout(
                load_file(NANO_FOLDER / f"{half}.safetensors"), table
            ).items()
        },
        folder / "vae/diffusion_pytorch_model.safetensors",
    )
    shutil.copytree(NANO_FOLDER / "t5", folder / "text_encoder")
    address = f"s3://{BUCKET}/models/nano"
    store = open_store(address, s3_server.spec)
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path, path.relative_to(folder).as_posix())
    return {"folder": f"file://{folder}", "s3": address}


def with_model(run: RunFile, address: str | None, server: Server) -> RunFile:
    locations = run.locations.model_copy(update={"model": address})
    return run.model_copy(update={"locations": locations, "s3": server.spec})


def losses(root: Path, name: str) -> list[Any]:
    lines = (root / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [(line.get("loss"), line.get("fixedLoss")) for line in map(json.loads, lines)]


def test_training_gives_the_same_losses_from_the_package_and_from_shards_in_s3(
    root: Path, addresses: dict[str, str], s3_server: Server
) -> None:
    for kind, address in (("packaged", None), ("s3", addresses["s3"])):
        train.execute(with_model(run_file(root, name=f"lora-{kind}", steps=2), address, s3_server))
        run = run_file(root, name=f"full-{kind}", replicas=2, **FULL)
        run_distributed(train.execute, 2, with_model(run, address, s3_server))
    for mode in ("lora", "full"):
        assert losses(root, f"{mode}-s3") == losses(root, f"{mode}-packaged")
    folders = [root / "runs" / f"full-{kind}" / "artifacts/dit.safetensors" for kind in ("packaged", "s3")]
    tuned, again = (load_file(path) for path in folders)
    assert all(torch.equal(tuned[name], again[name]) for name in tuned)


def test_full_tuned_weights_in_s3_are_sampled_without_a_download(
    root: Path, addresses: dict[str, str], s3_server: Server
) -> None:
    run = with_model(
        run_file(root, mode="full", name="tuned", prompts=["a red circle"]), addresses["s3"], s3_server
    )
    address = f"s3://{BUCKET}/runs/tuned"
    run = run.model_copy(update={"locations": run.locations.model_copy(update={"run": address})})
    store = open_store(address, s3_server.spec)
    with pytest.raises(MissingObjectError, match=r"runs/tuned/artifacts/dit.safetensors does not exist"):
        sample.execute(run)
    store.put(NANO_FOLDER / "dit.safetensors", "artifacts/dit.safetensors")
    assert sample.execute(run).result is not None
    assert store.read_bytes("samples/sample-00.mp4")[4:8] == b"ftyp"


def test_a_part_that_is_needed_late_is_missed_at_once(root: Path, tmp_path: Path, s3_server: Server) -> None:
    shutil.copytree(NANO_FOLDER, tmp_path / "model")
    (tmp_path / "model/decoder.safetensors").unlink()
    run = run_file(root, name="late", prompts=["a red circle"])
    with pytest.raises(MissingObjectError, match="no decoder in"):
        sample.execute(with_model(run, f"file://{tmp_path}/model", s3_server))


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_weights_that_cannot_be_used_are_told_as_the_models(
    root: Path, tmp_path: Path, s3_server: Server, mode: str
) -> None:
    shutil.copytree(NANO_FOLDER, tmp_path / "model")
    path = tmp_path / "model/dit.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    training = FULL if mode == "full" else {}
    run = with_model(run_file(root, name=f"cut-{mode}", **training), f"file://{tmp_path}/model", s3_server)
    with pytest.raises(
        InvalidInputError, match=r"the model's weights cannot be used: \S+dit.safetensors is truncated"
    ):
        train.execute(run)


def test_keys_of_the_cache_are_what_they_were(tmp_path: Path, root: Path, s3_server: Server) -> None:
    """Over relative names and sha256 in a folder, over names, sizes and ETags in S3: worked out here once more."""
    shutil.copytree(NANO_FOLDER, tmp_path / "model")
    run = run_file(root)
    files = {
        "encoder": ["encoder.safetensors"],
        "t5": [f"t5/{p.name}" for p in sorted((NANO_FOLDER / "t5").iterdir())],
    }
    address = f"s3://{BUCKET}/models/keys"
    store = open_store(address, s3_server.spec)
    for path in NANO_FOLDER.rglob("*"):
        if path.is_file():
            store.put(path, path.relative_to(NANO_FOLDER).as_posix())
    for part, names in files.items():
        contents = "".join(
            f"{n} {hashlib.sha256((NANO_FOLDER / n).read_bytes()).hexdigest()}\n" for n in names
        )
        heads = [store.head(name) for name in sorted(names)]
        listed = "".join(f"{head.key} {head.size} {head.etag}\n" for head in heads if head)
        for given, text in ((None, contents), (f"file://{tmp_path}/model", contents), (address, listed)):
            expected = f"nano-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
            assert model_identity(with_model(run, given, s3_server), [part]) == expected, (part, given)


def test_sampling_by_hand_takes_an_address(
    tmp_path: Path,
    addresses: dict[str, str],
    s3_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = [
        "sample",
        "--prompt",
        "a red circle",
        *SMALL,
        "--preset",
        "nano",
        "--out",
        str(tmp_path / "out"),
    ]
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.spec.endpoint)
    assert main([*common, "--model", addresses["s3"]]) == 0
    assert main([*common, "--model", addresses["folder"]]) == 0
    assert "loaded dit: " in capsys.readouterr().err
    assert main([*common, "--model", f"s3://{BUCKET}/nothing"]) == 3
    assert f"no t5 in s3://{BUCKET}/nothing" in capsys.readouterr().err
    assert main([*common, "--model", "hf://nobody/nothing"]) == 3
    assert "to get it: hf download nobody/nothing" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    assert main([*common, "--model", addresses["s3"]]) == 2
    assert "AWS_ENDPOINT_URL" in capsys.readouterr().err
