"""The run that training is to go on from is looked at before anything is paid for."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from mochi_api.runfile import RunFile
from mochi_api.spec import LoraSpec, S3Spec
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.jobs import check
from mochi_trainer.storage import Store, open_store, write_manifest
from mochi_trainer.train.terms import difference, terms_of
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.preprocessing_runs import run_file, write_source


@pytest.fixture
def earlier(s3_server: Server) -> Store:
    """The folder of a run with one complete checkpoint, of step 3, and a newer one that is not complete."""
    store = open_store(f"s3://{BUCKET}/{uuid4().hex}/runs/first", s3_server.spec)
    store.write_bytes("checkpoints/step-000003/manifest.json", b"{}")
    store.write_bytes("checkpoints/step-000005/shard-00000-of-00001.safetensors", b"x")
    return store


def _run(root: Path, spec: S3Spec, address: str, steps: int) -> RunFile:
    write_source(root / "source")
    run = run_file(root, s3=spec)
    training = run.training.model_copy(update={"steps": steps, "resume_from": address})
    return run.model_copy(update={"training": training})


def _with_adapter(root: Path, *, rs_lora: bool) -> RunFile:
    run = run_file(root)
    training = run.training.model_copy(update={"lora": LoraSpec(rs_lora=rs_lora)})
    return run.model_copy(update={"training": training})


def test_a_checkpoint_that_can_be_gone_on_from_is_told(
    earlier: Store, s3_server: Server, tmp_path: Path
) -> None:
    result = check.execute(_run(tmp_path, s3_server.spec, earlier.address(), steps=4)).result
    assert f"training can go on after step 3 of {earlier.address()}" in result.checked


def test_steps_that_are_done_are_refused(earlier: Store, s3_server: Server, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"training\.steps must be more than the 3 "):
        check.execute(_run(tmp_path, s3_server.spec, earlier.address(), steps=3))


def test_a_folder_without_a_checkpoint_is_named(s3_server: Server, tmp_path: Path) -> None:
    address = f"s3://{BUCKET}/{uuid4().hex}"
    with pytest.raises(MissingObjectError, match=f"resumeFrom {address}/ has no complete checkpoint"):
        check.execute(_run(tmp_path, s3_server.spec, address, steps=4))


def test_another_adapter_is_told_by_the_checkpoint_alone(
    earlier: Store, s3_server: Server, tmp_path: Path
) -> None:
    run = _run(tmp_path, s3_server.spec, earlier.address(), steps=4)
    write_manifest(
        earlier, "checkpoints/step-000003", [], {"terms": {**terms_of(run), "training.lora.alpha": 3.5}}
    )
    with pytest.raises(
        InvalidInputError, match=r"does not fit: training\.lora\.alpha is 16 here, 3\.5 there"
    ):
        check.execute(run)


def test_another_adapter_is_told_in_the_names_of_the_spec(tmp_path: Path) -> None:
    ours, theirs = (_with_adapter(tmp_path, rs_lora=stable) for stable in (True, False))
    assert difference(terms_of(ours), terms_of(theirs)) == "training.lora.rsLora is True here, False there"
