"""Training end to end on the CPU: resuming equals not stopping, the base stays as it is, bad numbers are skipped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from mochi_api.outcomes import TrainingResult
from mochi_api.runfile import RunFile
from mochi_trainer.errors import InvalidInputError, MissingObjectError, NonFiniteLossError, PreemptedError
from mochi_trainer.jobs import train
from mochi_trainer.jobs.finished import Finished
from mochi_trainer.jobs.tuned import tuned_dit
from mochi_trainer.lora import adapter_state, base_state, read_file
from mochi_trainer.presets import preset_named
from mochi_trainer.storage import open_store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights import load_dit
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.distributed import free_port, run_distributed
from tests.trainer.training_runs import KEY, LATENT_SHAPE, run_file, write_dataset

FULL: dict[str, Any] = {"mode": "full", "globalBatchSize": 2, "steps": 4, "learningRate": "0.001"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def lora(root: Path) -> tuple[RunFile, Finished]:
    """An uninterrupted LoRA run of six steps."""
    os.environ["MOCHI_METRICS_PORT"] = str(free_port())
    torch.set_num_threads(1)
    run = run_file(root, name="lora")
    return run, train.execute(run)


@pytest.fixture(scope="module")
def full(root: Path) -> RunFile:
    """An uninterrupted full run of four steps on two ranks."""
    run = run_file(root, name="full", replicas=2, **FULL)
    results = run_distributed(train.execute, 2, run)
    assert [type(finished.result) for finished in results] == [TrainingResult, type(None)]
    return run


def series(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in ("time", "stepSeconds", "dataSeconds")}
        for line in series(folder)
    ]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copied_up_to(root: Path, source: str, name: str, step: int) -> Path:
    """A run's folder as it was when the process died some time after the checkpoint of `step`."""
    target = root / "runs" / name
    shutil.copytree(root / "runs" / source, target)
    shutil.rmtree(target / "artifacts")
    for folder in (target / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    return target


def test_a_lora_run_leaves_its_artifacts(root: Path, lora: tuple[RunFile, Finished]) -> None:
    run, finished = lora
    result = finished.result
    assert isinstance(result, TrainingResult)
    path = root / "runs/lora/artifacts/lora.safetensors"
    assert result == TrainingResult(
        artifactURI=f"{run.locations.run}/artifacts/lora.safetensors",
        sha256=digest(path),
        size_bytes=path.stat().st_size,
        final_step=6,
        final_loss=series(root / "runs/lora")[-1]["loss"],
        checkpointURI=f"{run.locations.run}/checkpoints/step-000006",
    )
    assert len(load_file(path)) == preset_named("nano").dit.depth * 2 * 2
    assert all(tensor.dtype == torch.float32 for tensor in load_file(path).values())
    card = (root / "runs/lora/artifacts/README.md").read_text()
    assert "rank | 4" in card
    assert "lora-comfyui.safetensors" in card


def test_both_files_of_a_lora_run_hold_the_same_adapter(root: Path, lora: tuple[RunFile, Finished]) -> None:
    files = [root / "runs/lora/artifacts" / name for name in ("lora.safetensors", "lora-comfyui.safetensors")]
    (ours, params), (native, native_params) = map(read_file, files)
    assert native_params == params
    assert native.keys() == ours.keys()
    assert all(torch.equal(native[name], ours[name]) for name in ours)


def test_the_series_has_every_step_and_the_fixed_loss(root: Path, lora: tuple[RunFile, Finished]) -> None:
    found = series(root / "runs/lora")
    assert [line["step"] for line in found] == list(range(7))
    assert [line["step"] for line in found if "fixedLoss" in line] == [0, 2, 4, 6]


def test_resuming_a_lora_run_equals_not_stopping_bit_for_bit(
    root: Path, lora: tuple[RunFile, Finished]
) -> None:
    target = copied_up_to(root, "lora", "lora-resumed", 2)
    finished = train.execute(run_file(root, name="lora-resumed"))
    assert finished.details["resumedFromStep"] == 2
    shard = "checkpoints/step-000006/shard-00000-of-00001.safetensors"
    assert digest(target / shard) == digest(root / "runs/lora" / shard)
    assert numbers(target) == numbers(root / "runs/lora")
    ours, theirs = (load_file(f / "artifacts/lora.safetensors") for f in (target, root / "runs/lora"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_dropout_inside_the_adapter_resumes_bit_for_bit_too(root: Path) -> None:
    options: dict[str, Any] = {
        "lora": {"rank": 2, "alpha": 2, "dropout": "0.5"},
        "steps": 3,
        "checkpoint": {"everySteps": 1},
    }
    train.execute(run_file(root, name="dropout", **options))
    target = copied_up_to(root, "dropout", "dropout-resumed", 1)
    torch.rand(7)  # the process's own generator stands elsewhere now
    train.execute(run_file(root, name="dropout-resumed", **options))
    assert numbers(target) == numbers(root / "runs/dropout")


def test_a_checkpoint_without_its_manifest_does_not_exist(
    root: Path, lora: tuple[RunFile, Finished], caplog: pytest.LogCaptureFixture
) -> None:
    """What a kill between the shards and the manifest leaves."""
    target = copied_up_to(root, "lora", "lora-killed", 4)
    (target / "checkpoints/step-000004/manifest.json").unlink()
    assert train.execute(run_file(root, name="lora-killed")).details["resumedFromStep"] == 2
    assert numbers(target) == numbers(root / "runs/lora")


def test_a_damaged_checkpoint_is_left_out_with_a_warning(
    root: Path, lora: tuple[RunFile, Finished], caplog: pytest.LogCaptureFixture
) -> None:
    target = copied_up_to(root, "lora", "lora-damaged", 4)
    shard = target / "checkpoints/step-000004/shard-00000-of-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    assert train.execute(run_file(root, name="lora-damaged")).details["resumedFromStep"] == 2
    assert "checkpoints/step-000004 is not used" in caplog.text


def test_a_run_that_has_more_steps_than_are_asked_for_is_not_cut_short_in_silence(
    root: Path, lora: tuple[RunFile, Finished]
) -> None:
    copied_up_to(root, "lora", "lora-shorter", 6)
    with pytest.raises(
        InvalidInputError, match=r"training.steps must be at least the 6 that .*step-000006 has, got 4"
    ):
        train.execute(run_file(root, name="lora-shorter", steps=4))


def test_old_checkpoints_go(root: Path) -> None:
    train.execute(run_file(root, name="few", steps=3, checkpoint={"everySteps": 1, "keepLast": 2}))
    kept = sorted(path.name for path in (root / "runs/few/checkpoints").iterdir() if any(path.iterdir()))
    assert kept == ["step-000002", "step-000003"]


def test_lora_leaves_the_base_as_it_is_and_changes_the_output(
    root: Path, lora: tuple[RunFile, Finished], tmp_path: Path
) -> None:
    base = load_dit("nano")
    tuned = tuned_dit(
        lora[0],
        LocalStore(root / "runs/lora"),
        None,
        tmp_path,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    theirs = base_state(tuned)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in base.state_dict().items())
    assert {tensor.dtype for tensor in adapter_state(tuned).values()} == {torch.float32}
    x, sigma, text = torch.randn(1, *LATENT_SHAPE), torch.tensor([0.5]), torch.randn(1, 4, 64)
    with torch.no_grad():
        assert (tuned(x, sigma, text) - base(x, sigma, text)).abs().max() > 1e-4


def test_resuming_a_full_run_equals_not_stopping_bit_for_bit(root: Path, full: RunFile) -> None:
    target = copied_up_to(root, "full", "full-resumed", 2)
    run_distributed(train.execute, 2, run_file(root, name="full-resumed", replicas=2, **FULL))
    for rank in (0, 1):
        shard = f"checkpoints/step-000004/shard-{rank:05d}-of-00002.safetensors"
        assert digest(target / shard) == digest(root / "runs/full" / shard)
    assert numbers(target) == numbers(root / "runs/full")


def test_one_rank_resumes_what_two_began_and_all_agree(root: Path, full: RunFile) -> None:
    target = copied_up_to(root, "full", "full-one", 2)
    [finished] = run_distributed(train.execute, 1, run_file(root, name="full-one", replicas=1, **FULL))
    assert finished.details["resumedFromStep"] == 2
    ours = load_file(target / "artifacts/dit.safetensors")
    theirs = load_file(root / "runs/full/artifacts/dit.safetensors")
    assert ours.keys() == theirs.keys() == load_dit("nano").state_dict().keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 2e-3
    losses = [[line.get("loss") for line in numbers(folder)] for folder in (target, root / "runs/full")]
    assert losses[0][1:] == pytest.approx(losses[1][1:], rel=1e-3)


def test_a_run_that_is_done_only_exports_again(root: Path, lora: tuple[RunFile, Finished]) -> None:
    target = root / "runs" / "lora-again"
    shutil.copytree(root / "runs/lora", target)
    (target / "artifacts/lora.safetensors").unlink()
    assert train.execute(run_file(root, name="lora-again")).details["resumedFromStep"] == 6
    assert numbers(target) == numbers(root / "runs/lora")
    assert (target / "artifacts/lora.safetensors").exists()


def _when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if condition():
                return act()
            time.sleep(0.01)
        return None

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_sigterm_saves_the_step_at_hand(root: Path) -> None:
    checkpoints = root / "runs/preempted/checkpoints"
    _when((checkpoints / "step-000002/manifest.json").exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="stopped by SIGTERM after step") as caught:
        train.execute(
            run_file(root, name="preempted", steps=500, checkpoint={"everySteps": 2, "keepLast": 100})
        )
    assert caught.value.exit_code == 143
    step = caught.value.step
    assert step is not None
    assert step >= 2
    assert (checkpoints / f"step-{step:06d}/manifest.json").exists()
    assert series(root / "runs/preempted")[-1]["step"] == step
    assert signal.getsignal(signal.SIGTERM) == before


def _preempted(run: RunFile) -> int | None:
    if os.environ["RANK"] == "1":
        _when(
            Path(f"{run.locations.run.removeprefix('file://')}/checkpoints/step-000002/manifest.json").exists,
            lambda: os.kill(os.getpid(), signal.SIGTERM),
        )
    try:
        train.execute(run)
    except PreemptedError as error:
        return error.step
    return None


def test_sigterm_to_one_rank_stops_all_after_the_same_step(root: Path) -> None:
    options = FULL | {"steps": 500, "checkpoint": {"everySteps": 2, "keepLast": 100}}
    one, other = run_distributed(_preempted, 2, run_file(root, name="full-preempted", replicas=2, **options))
    assert one == other
    assert one is not None
    assert (root / f"runs/full-preempted/checkpoints/step-{one:06d}/manifest.json").exists()


@pytest.fixture
def poisoned(root: Path, tmp_path: Path) -> Iterator[Path]:
    """A dataset of one good clip and one of NaN."""
    write_dataset(tmp_path, clips=2)
    replaced(tmp_path, "clip-1", torch.full(LATENT_SHAPE, torch.nan))
    return tmp_path  # type: ignore[return-value]


def replaced(root: Path, clip: str, mean: torch.Tensor) -> None:
    """Other latents of one clip, in their list too."""
    folder = root / "cache/videos" / KEY
    path = folder / f"{clip}.safetensors"
    save_file({"mean": mean, "logvar": torch.zeros(LATENT_SHAPE)}, path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["entries"]:
        if entry["name"] == path.name:
            entry.update(size=path.stat().st_size, sha256=digest(path))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_steps_that_are_not_finite_are_skipped_and_counted(poisoned: Path) -> None:
    options: dict[str, Any] = {"steps": 4, "globalBatchSize": 1, "checkpoint": {"everySteps": 1}}
    finished = train.execute(run_file(poisoned, **options))
    assert finished.details["skippedSteps"] == 2
    losses = [line["loss"] for line in series(poisoned / "runs/run")[1:]]
    assert sorted(loss is None for loss in losses) == [False, False, True, True]
    weights = load_file(poisoned / "runs/run/artifacts/lora.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    bad = [number for number, loss in enumerate(losses, 1) if loss is None and number < 4]
    for step in bad:
        assert not (poisoned / f"runs/run/checkpoints/step-{step:06d}").exists()


def test_three_steps_in_a_row_that_are_not_finite_end_the_run(poisoned: Path) -> None:
    """Two clips a step: every step has the NaN."""
    words = r"not finite in 3 steps in a row.*: clip clip-1 at noise level 0\.\d+: its own latents"
    with pytest.raises(NonFiniteLossError, match=words) as caught:
        train.execute(run_file(poisoned, name="dead", globalBatchSize=2))
    assert (caught.value.exit_code, caught.value.step) == (8, 3)
    assert [line["loss"] for line in series(poisoned / "runs/dead")[1:]] == [None] * 3
    assert not (poisoned / "runs/dead/checkpoints").exists()


def _cause(run: RunFile) -> str:
    try:
        train.execute(run)
    except NonFiniteLossError as error:
        return str(error)
    return ""


def test_all_ranks_name_the_clip_and_the_layer(root: Path, tmp_path: Path) -> None:
    """Latents so large that their squares are beyond float32."""
    write_dataset(tmp_path, clips=2)
    replaced(tmp_path, "clip-1", torch.full(LATENT_SHAPE, 1e37))
    one, other = run_distributed(_cause, 2, run_file(tmp_path, name="large", replicas=2, **FULL))
    assert one == other
    assert "clip clip-1 at noise level" in one
    assert re.search(r": [a-z]\S+\.\S+ is the first with an output that is not finite", one)


def test_a_dataset_that_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match="output of the stage videos is not complete"):
        train.execute(run_file(tmp_path))


def test_a_run_starts_where_a_lora_file_ended(
    root: Path, lora: tuple[RunFile, Finished], s3_server: Server
) -> None:
    first, done = lora
    assert isinstance(done.result, TrainingResult)
    ended = LocalStore(Path(first.locations.run.removeprefix("file://")))
    open_store(f"s3://{BUCKET}/given", s3_server.spec).write_bytes(
        "first.safetensors", ended.read_bytes("artifacts/lora.safetensors")
    )
    start = {"rank": 8, "alpha": 4, "startFrom": f"s3://{BUCKET}/given/first.safetensors"}
    again = run_file(root, name="again", lora=start).model_copy(update={"s3": s3_server.spec})
    details = train.execute(again).details
    assert details["fixedLossBefore"] == pytest.approx(done.details["fixedLossAfter"], rel=1e-5)
    assert details["fixedLossAfter"] < details["fixedLossBefore"]


def test_a_run_starts_where_the_folder_of_peft_ended(
    root: Path, lora: tuple[RunFile, Finished], s3_server: Server
) -> None:
    """The same numbers under peft's names, B halved and alpha twice the rank."""
    first, done = lora
    ended = Path(first.locations.run.removeprefix("file://")) / "artifacts" / "lora.safetensors"
    renamed = {
        name.replace("transformer.", "base_model.model.", 1): tensor / 2 if "lora_B" in name else tensor
        for name, tensor in load_file(ended).items()
    }
    rank = next(len(tensor) for name, tensor in renamed.items() if "lora_A" in name)
    store = open_store(f"s3://{BUCKET}/peft", s3_server.spec)
    store.write_bytes("adapter_model.safetensors", save(renamed))
    store.write_bytes("adapter_config.json", json.dumps({"lora_alpha": 2 * rank}).encode())
    store.write_bytes("README.md", b"# mine")
    start = {"rank": 8, "alpha": 4, "startFrom": f"s3://{BUCKET}/peft/"}
    again = run_file(root, name="peft", lora=start).model_copy(update={"s3": s3_server.spec})
    details = train.execute(again).details
    assert details["fixedLossBefore"] == pytest.approx(done.details["fixedLossAfter"], rel=1e-5)


def test_a_start_that_does_not_fit_or_exist_is_refused(root: Path, s3_server: Server) -> None:
    store = open_store(f"s3://{BUCKET}/given", s3_server.spec)
    store.write_bytes("broken.safetensors", b"not a file")
    uri = f"s3://{BUCKET}/given/broken.safetensors"
    run = run_file(root, name="refused", lora={"startFrom": uri}).model_copy(update={"s3": s3_server.spec})
    with pytest.raises(
        InvalidInputError, match=f"lora.startFrom {uri} cannot be used: broken.safetensors is not"
    ):
        train.execute(run)
    missing = run_file(root, name="absent", lora={"startFrom": uri.replace("broken", "absent")})
    with pytest.raises(MissingObjectError, match=r"given/absent\.safetensors"):
        train.execute(missing.model_copy(update={"s3": s3_server.spec}))
