"""A run that goes on from another run's checkpoints, which is what is left of a run that has failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load_file

from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.jobs import saving, train
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.storage import Store, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, Fault, Request, fault_proxy
from tests.trainer.training_runs import run_file, write_dataset

STEPS: dict[str, Any] = {"steps": 8, "checkpoint": {"everySteps": 2, "keepLast": 2}}


class Lab:
    """Runs of one dataset whose results lie in S3."""

    def __init__(self, server: Server, root: Path) -> None:
        self.server, self.root, self.prefix = server, root, uuid4().hex

    def run(self, name: str, **training: Any) -> RunFile:
        run = run_file(self.root, name=name, **{**STEPS, **training})
        places = run.locations.model_copy(update={"run": self.folder(name)})
        return run.model_copy(update={"locations": places, "s3": self.server.spec})

    def folder(self, name: str) -> str:
        return f"s3://{BUCKET}/{self.prefix}/runs/{name}"

    def store(self, name: str) -> Store:
        return open_store(self.folder(name), self.server.spec)

    def adapter(self, name: str) -> dict[str, torch.Tensor]:
        self.store(name).get("artifacts/lora.safetensors", self.root / f"{name}.safetensors")
        return load_file(self.root / f"{name}.safetensors")

    def numbers(self, name: str) -> list[dict[str, Any]]:
        lines = self.store(name).read_bytes("metrics.jsonl").decode().splitlines()
        return [
            {k: v for k, v in json.loads(line).items() if k not in ("time", "stepSeconds", "dataSeconds")}
            for line in lines
        ]


@pytest.fixture(scope="module")
def lab(s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("takeover")
    write_dataset(root)
    return Lab(s3_server, root)


@pytest.fixture(scope="module")
def failed(lab: Lab) -> Lab:
    """A run `failed` whose token expired after its checkpoint of step 4."""
    torch.set_num_threads(1)
    expired = False

    def rule(request: Request) -> Fault | None:
        nonlocal expired
        expired = expired or ("step-000006" in request.path and request.method == "PUT")
        return Answer(status=400, code="ExpiredToken", words="The token has expired.") if expired else None

    with pytest.MonkeyPatch.context() as patch, fault_proxy(lab.server.spec, rule) as proxy:
        patch.setattr(saving, "PATIENCE_SECONDS", 1.0)
        with pytest.raises(StorageError, match="has expired") as caught:
            train.execute(lab.run("failed").model_copy(update={"s3": proxy.spec}))
    assert "training.resumeFrom" in (caught.value.action or "")
    return lab


def gone_on(lab: Lab, name: str, **training: Any) -> Finished:
    return train.execute(lab.run(name, resumeFrom=lab.folder("failed"), **training))


def test_the_last_steps_are_done_without_the_first_and_the_result_is_the_same(failed: Lab) -> None:
    before = {info.key: info.etag for info in failed.store("failed").list()}
    finished = gone_on(failed, "second")
    assert finished.details["resumedFromStep"] == 4
    train.execute(failed.run("undisturbed"))
    ours, theirs = failed.adapter("second"), failed.adapter("undisturbed")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert failed.numbers("second") == failed.numbers("undisturbed")
    assert {info.key: info.etag for info in failed.store("failed").list()} == before


def test_its_own_checkpoints_come_first(failed: Lab) -> None:
    gone_on(failed, "again")
    assert gone_on(failed, "again").details["resumedFromStep"] == 8


def test_more_steps_can_be_asked_for(failed: Lab) -> None:
    result = gone_on(failed, "longer", steps=10).result
    assert result is not None
    assert result.final_step == 10


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"lora": {"rank": 8, "alpha": 8}}, r"training\.lora\.rank is 8 here, 4 there"),
        ({"lora": {"rank": 4, "alpha": 16}}, r"training\.lora\.alpha is 16 here, 8 there"),
        (
            {"lora": {"rank": 4, "alpha": 8, "rsLora": True}},
            r"training\.lora\.rsLora is True here, False there",
        ),
        (
            {"lora": {"rank": 4, "alpha": 8, "targets": ["key"]}},
            r"training\.lora\.targets is key here, query, value there",
        ),
        ({"steps": 4}, r"training\.steps must be more than the 4 that s3://.*/step-000004 has, got 4"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(failed: Lab, training: dict[str, Any], words: str) -> None:
    failed.store("failed").delete(["run.yaml"])
    with pytest.raises(InvalidInputError, match=words):
        gone_on(failed, f"refused-{uuid4()}", **training)


def test_another_dropout_is_none_of_it(failed: Lab) -> None:
    finished = gone_on(failed, "dropped", lora={"rank": 4, "alpha": 8, "dropout": "0.1"})
    assert finished.details["resumedFromStep"] == 4


@contextmanager
def of_an_earlier_version(store: Store) -> Iterator[None]:
    """Its manifests have no terms."""
    before = {
        key: store.read_bytes(key)
        for key in (info.key for info in store.list("checkpoints/"))
        if "manifest" in key
    }
    for key, data in before.items():
        document = json.loads(data)
        del document["details"]["terms"]
        store.write_bytes(key, json.dumps(document).encode())
    try:
        yield
    finally:
        for key, data in before.items():
            store.write_bytes(key, data)


def test_checkpoints_of_an_earlier_version_are_gone_on_from(failed: Lab) -> None:
    failed.store("failed").delete(["run.yaml"])
    with of_an_earlier_version(failed.store("failed")):
        assert gone_on(failed, "of-before").details["resumedFromStep"] == 4
        assert (
            gone_on(failed, "of-before-scaled", lora={"rank": 4, "alpha": 16}).details["resumedFromStep"] == 4
        )


def test_of_an_earlier_version_the_run_file_tells(failed: Lab) -> None:
    failed.store("failed").write_bytes("run.yaml", failed.run("failed").to_yaml().encode())
    with (
        of_an_earlier_version(failed.store("failed")),
        pytest.raises(InvalidInputError, match=r"training\.lora\.alpha is 16 here, 8 there") as caught,
    ):
        gone_on(failed, "scaled", lora={"rank": 4, "alpha": 16})
    assert "training.resumeFrom" in (caught.value.action or "")


def test_a_base_at_another_address_is_told(failed: Lab, caplog: pytest.LogCaptureFixture) -> None:
    theirs = failed.run("failed")
    elsewhere = theirs.locations.model_copy(update={"model": "s3://models/another"})
    moved = theirs.model_copy(update={"locations": elsewhere})
    failed.store("failed").write_bytes("run.yaml", moved.to_yaml().encode())
    gone_on(failed, "based-otherwise")
    assert "had its base at another address" in caplog.text


def test_other_clips_held_out_than_there_are_told(failed: Lab, caplog: pytest.LogCaptureFixture) -> None:
    failed.store("failed").write_bytes("run.yaml", failed.run("failed").to_yaml().encode())
    gone_on(failed, "split-alike")
    assert "held others out" not in caplog.text
    assert "another address" not in caplog.text
    gone_on(failed, "split-otherwise", validation={"clips": 1})
    assert "had other clips, or held others out" in caplog.text


def test_a_folder_without_a_checkpoint_is_named(failed: Lab) -> None:
    with pytest.raises(
        MissingObjectError, match=r"resumeFrom s3://.*/runs/none/ has no complete checkpoint"
    ) as caught:
        train.execute(failed.run("lonely", resumeFrom=failed.folder("none")))
    assert "storage.outputURI/runs/<uid>/" in (caught.value.action or "")


def test_a_checkpoint_that_is_incomplete_leaves_an_older_one(failed: Lab) -> None:
    store = failed.store("failed")
    manifest = store.read_bytes("checkpoints/step-000004/manifest.json")
    store.delete(["checkpoints/step-000004/manifest.json"])
    try:
        assert gone_on(failed, "older").details["resumedFromStep"] == 2
    finally:
        store.write_bytes("checkpoints/step-000004/manifest.json", manifest)
