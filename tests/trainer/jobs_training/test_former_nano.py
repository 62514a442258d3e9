"""What was made with `nano` as it was before its sizes changed is refused by name, and never mixed with what is made now."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import torch

from demo.nano.initial import initialise
from mochi_trainer import lora
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.jobs import train
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.presets import catalogue
from mochi_trainer.storage import open_store
from mochi_trainer.weights import WeightsError, load_dit, save_weights
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.training_runs import run_file, write_dataset

FORMER = DiTParams(
    depth=4, visual_width=128, text_width=64, heads=4, text_feature_width=64, pooling_heads=4, timestep_width=64,
    mlp_multiple=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, weights of the former sizes, and what a LoRA run on them leaves in S3."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("former")
    write_dataset(root)
    model = DiT(FORMER)
    initialise(model, seed=1)
    (root / "weights").mkdir()
    save_weights(model, root / "weights/dit.safetensors", dtype=torch.float32, metadata={})
    return root


@pytest.fixture(scope="module")
def address(former: Path, s3_server: Server) -> str:
    """Of that run."""
    address = f"s3://{BUCKET}/{uuid4().hex}/runs/former"
    run = run_file(former, name="former", steps=2)
    places = run.locations.model_copy(update={"run": address, "model": f"file://{former}/weights"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "NANO_DIT", FORMER)
        finished = train.execute(run.model_copy(update={"locations": places, "s3": s3_server.spec}))
    assert finished.result is not None
    return address


def test_its_weights_are_named_with_both_sizes(former: Path) -> None:
    with pytest.raises(
        WeightsError, match="the file has 4 blocks of width 128 where nano has 3 of width 192"
    ):
        load_dit("nano", former / "weights")


def test_its_adapters_are_named(former: Path, address: str, s3_server: Server, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    open_store(address, s3_server.spec).get("artifacts/lora.safetensors", path)
    with pytest.raises(
        ValueError, match=r"blocks\.3\.attn\.qkv_x\.query\.lora_A\.weight is not part of the model"
    ):
        lora.load_file(load_dit("nano"), path)


def test_its_checkpoints_are_not_gone_on_from(former: Path, address: str, s3_server: Server) -> None:
    run = run_file(former, name="later", resumeFrom=address).model_copy(update={"s3": s3_server.spec})
    with pytest.raises(
        InvalidInputError, match=r"can be gone on from: blocks\.3\..* is not part of the model"
    ):
        train.execute(run)
