"""Samples during the training: what a checkpoint holds, read beside a training that never notices."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mochi_api.outcomes import SampleResult
from mochi_api.runfile import RunFile
from mochi_trainer.__main__ import main
from mochi_trainer.errors import InvalidInputError, StorageError
from mochi_trainer.jobs import preview, sample, train
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.storage import open_store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.train.saved_weights import load_newest
from mochi_trainer.weights import meta_dit
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import forked, free_port, run_distributed
from tests.trainer.training_runs import run_file, write_dataset

FULL: dict[str, Any] = {"mode": "full", "globalBatchSize": 2, "steps": 4, "learningRate": "0.001"}
LONG: dict[str, Any] = {"steps": 12, "checkpoint": {"everySteps": 2, "keepLast": 2}}
LIMIT = 120.0
"""Seconds that anything here is waited for."""
VIDEO = "sample-00.mp4"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("previews")
    write_dataset(folder)
    return folder


@pytest.fixture
def trained(root: Path, request: pytest.FixtureRequest) -> RunFile:
    """A LoRA run of 6 steps with a checkpoint every 2, in a folder of its own."""
    run = run_file(root, name=re.sub(r"\W+", "-", request.node.name))
    if not (root / "runs/lora").exists():
        train.execute(run_file(root, name="lora"))
    shutil.copytree(root / "runs/lora", root / f"runs/{run.run.name}")
    return run


def folder_of(root: Path, run: RunFile) -> Path:
    return root / "runs" / run.run.name


def distributed_training(run: RunFile) -> None:
    train.execute(run)


def trained_in_full(root: Path, ranks: int) -> RunFile:
    """A run of all weights, trained when it is first asked for."""
    run = run_file(root, name=f"full-{ranks}", replicas=ranks, **FULL)
    if not folder_of(root, run).exists():
        run_distributed(distributed_training, ranks, run)
    return run


def test_samples_of_the_last_checkpoint_are_those_of_the_result(root: Path, trained: RunFile) -> None:
    finished = preview.execute(trained)
    address = f"{trained.locations.run}/samples/step-000006/{VIDEO}"
    assert finished.result == SampleResult(sampleURIs=[address], step=6)
    assert finished.message == "made 1 sample video of step 6"
    sample.execute(trained)
    samples = folder_of(root, trained) / "samples"
    assert (samples / "step-000006" / VIDEO).read_bytes() == (samples / VIDEO).read_bytes()
    described = json.loads((samples / "step-000006/samples.json").read_text())
    assert (described["step"], described["samples"][0]["video"]) == (6, address)


def test_an_earlier_checkpoint_has_other_samples(root: Path, trained: RunFile) -> None:
    preview.execute(trained)
    shutil.rmtree(folder_of(root, trained) / "checkpoints/step-000006")
    assert preview.execute(trained).result == SampleResult(
        sampleURIs=[f"{trained.locations.run}/samples/step-000004/{VIDEO}"], step=4
    )
    samples = folder_of(root, trained) / "samples"
    assert (samples / "step-000004" / VIDEO).read_bytes() != (samples / "step-000006" / VIDEO).read_bytes()


@pytest.mark.parametrize("ranks", [1, 2])
def test_all_weights_are_put_together_from_the_files_of_all_ranks(root: Path, ranks: int) -> None:
    run = trained_in_full(root, ranks)
    preview.execute(run)
    sample.execute(run)
    samples = folder_of(root, run) / "samples"
    assert (samples / "step-000004" / VIDEO).read_bytes() == (samples / VIDEO).read_bytes()


def test_an_adapter_of_several_ranks_is_in_the_first_file(root: Path) -> None:
    run = run_file(root, name="lora-2", replicas=2, steps=2)
    run_distributed(distributed_training, 2, run)
    preview.execute(run)
    sample.execute(run)
    samples = folder_of(root, run) / "samples"
    assert (samples / "step-000002" / VIDEO).read_bytes() == (samples / VIDEO).read_bytes()


class Counting(LocalStore):
    """The same folder, which counts the bytes that are read of shards."""

    read = 0

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        self.read += len(data) if "/shard-" in key else 0
        return data


def test_the_moments_of_the_optimizer_are_not_read(root: Path) -> None:
    run = trained_in_full(root, 2)
    store = Counting(folder_of(root, run))
    state = {name: torch.empty(tensor.shape) for name, tensor in meta_dit("nano").state_dict().items()}
    assert load_newest(store, state).step == 4
    stored = sum(path.stat().st_size for path in folder_of(root, run).glob("checkpoints/step-000004/shard-*"))
    assert store.read < 0.4 * stored


def test_in_a_bucket_it_is_the_same(root: Path, trained: RunFile, s3_server: Server) -> None:
    preview.execute(trained)
    folder, address = folder_of(root, trained), f"s3://{BUCKET}/previews"
    store = open_store(address, s3_server.spec)
    for path in folder.glob("checkpoints/step-000006/*"):
        store.put(path, str(path.relative_to(folder)))
    places = trained.locations.model_copy(update={"run": address})
    finished = preview.execute(trained.model_copy(update={"locations": places, "s3": s3_server.spec}))
    assert finished.result == SampleResult(sampleURIs=[f"{address}/samples/step-000006/{VIDEO}"], step=6)
    key = f"samples/step-000006/{VIDEO}"
    assert store.read_bytes(key) == (folder / key).read_bytes()


class Retiring(LocalStore):
    """The same folder, of which the newest checkpoint goes when its weights are asked for, as old ones do."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if "step-000006/shard-" in key and start > 8:
            shutil.rmtree(Path(self.address().removeprefix("file://")) / "checkpoints/step-000006")
        return super().read_range(key, start, length)


def adapter_of(root: Path, run: RunFile) -> dict[str, torch.Tensor]:
    """Tensors for the weights of a LoRA run."""
    manifest = json.loads((folder_of(root, run) / "checkpoints/step-000004/manifest.json").read_text())
    return {name: torch.empty(shape) for name, shape in manifest["details"]["shapes"].items()}


def test_a_checkpoint_that_goes_while_it_is_read_is_replaced_by_the_newest_there_is(
    root: Path, trained: RunFile, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = adapter_of(root, trained)
    assert load_newest(Retiring(folder_of(root, trained)), tensors).step == 4
    assert [line.getMessage() for line in caplog.records if "is not used" in line.getMessage()] != []
    again = adapter_of(root, trained)
    load_newest(LocalStore(folder_of(root, trained)), again)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors), (
        "nothing of the first one is left"
    )


def _manifest_gone(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _not_finite(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    document["details"]["position"]["good"] = False
    (folder / "manifest.json").write_text(json.dumps(document))


def _truncated(folder: Path) -> None:
    path = next(folder.glob("shard-*"))
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("damage", [_manifest_gone, _not_finite, _truncated])
def test_what_cannot_be_used_is_left_out(root: Path, trained: RunFile, damage: Any) -> None:
    damage(folder_of(root, trained) / "checkpoints/step-000006")
    assert load_newest(LocalStore(folder_of(root, trained)), adapter_of(root, trained)).step == 4


@pytest.mark.parametrize("lora", [{"rank": 4, "alpha": 16}, {"rank": 2, "alpha": 8}], ids=["alpha", "rank"])
def test_by_hand_with_another_adapter_it_is_refused(
    root: Path, trained: RunFile, request: pytest.FixtureRequest, lora: dict[str, Any]
) -> None:
    name = request.node.callspec.id
    with pytest.raises(
        InvalidInputError, match=rf"is of another training: training\.lora\.{name} is"
    ) as caught:
        preview.execute(run_file(root, name=trained.run.name, lora=lora))
    assert name in (caught.value.action or "")


def test_without_a_checkpoint_it_says_so_and_may_be_tried_again(root: Path) -> None:
    with pytest.raises(StorageError, match=r"runs/none/checkpoints can be used: there is none") as caught:
        preview.execute(run_file(root, name="none"))
    assert caught.value.action == "wait until the training has saved one"


@contextmanager
def beside(run: RunFile) -> Iterator[Any]:
    """A training in a process of its own."""
    process = forked(distributed_training, run)
    process.start()
    try:
        yield process
        process.join(LIMIT)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the weights and moments in its checkpoints."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("checkpoints/*/shard-*")}


def samples_while_it_stands_still(run: RunFile, folder: Path, process: Any) -> int:
    """The step of the samples that are made once there is a checkpoint, while the training is held, whoever is faster."""
    end = time.monotonic() + LIMIT
    while not list(folder.glob("checkpoints/*/manifest.json")):
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        return step_of(preview.execute(run))
    finally:
        os.kill(process.pid, signal.SIGCONT)


def step_of(finished: Finished) -> int:
    assert isinstance(finished.result, SampleResult)
    assert finished.result.step is not None
    return finished.result.step


def test_a_training_is_the_same_to_the_last_bit_with_and_without(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples are made again and again, while it goes on and removes the checkpoints that they are made from."""
    alone, observed = (run_file(root, name=name, **LONG) for name in ("alone", "observed"))
    train.execute(alone)
    monkeypatch.setenv("MOCHI_METRICS_PORT", str(free_port()))
    with beside(observed) as process:
        first = samples_while_it_stands_still(observed, folder_of(root, observed), process)
        end = time.monotonic() + LIMIT
        while process.is_alive() and time.monotonic() < end:
            preview.execute(observed)
    assert first < LONG["steps"]
    ours, theirs = contents(root / "runs/observed"), contents(root / "runs/alone")
    assert ours.keys() == theirs.keys() != set()
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def command(run: RunFile, path: Path) -> int:
    path.write_text(run.to_yaml())
    return main(["preview", "--run", str(path)])


def test_the_command_refreshes_the_report_and_leaves_the_records_of_the_run_alone(
    root: Path, trained: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCHI_TERMINATION_LOG", str(tmp_path / "end"))
    folder = folder_of(root, trained)
    before = {path for path in folder.rglob("*") if path.is_file()}
    assert command(trained, tmp_path / "run.yaml") == 0
    new = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in before
    }
    assert new == {
        "report.html",
        *(f"samples/step-000006/{name}" for name in (VIDEO, "sample-00.png", "samples.json")),
    }
    outcome = json.loads((tmp_path / "end").read_text())
    assert outcome["sampleResult"]["step"] == 6
    assert outcome["sampleResult"]["reportURI"].endswith("report.html")
    page = (folder / "report.html").read_text()
    assert "Samples during training" in page
    assert "step 6 ·" in page
    shutil.rmtree(folder / "checkpoints")
    (folder / "report.html").unlink()
    assert command(trained, tmp_path / "run.yaml") == 6
    assert not (folder / "report.html").exists(), "a failure changes nothing of the run's report"
