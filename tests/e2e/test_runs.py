"""The whole path on a real control plane: what `make demo` does, at smaller size."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from demo.kubectl import KubectlError
from devcluster.processes import send
from mochi_api import layout
from mochi_api.identity import ANNOTATION_SAMPLE_NOW, GROUP
from mochi_api.status import FineTuneStatus, Preview
from tests.e2e.lab import Lab
from tests.e2e.pods import held_at, hold
from tests.e2e.stories import same, trained_steps


def _condition(status: FineTuneStatus, kind: str) -> Any:
    return next(condition for condition in status.conditions if condition.type == kind)


@pytest.fixture(scope="module")
def first(lab: Lab) -> FineTuneStatus:
    """A LoRA run, left alone until it has succeeded."""
    lab.apply("first")
    return lab.succeeded("first")


def test_a_lora_run_succeeds_stage_by_stage(first: FineTuneStatus) -> None:
    assert {stage.name: stage.state for stage in first.stages} == dict.fromkeys(
        ("check", "trim", "captions", "videos", "sample"), "Succeeded"
    )
    assert [(stage.items_done, stage.items_failed) for stage in first.stages[:4]] == [(3, 0)] * 4
    assert [stage.attempt for stage in first.stages] == [1] * 5
    assert _condition(first, "Checked").status == "True"
    assert _condition(first, "Succeeded").status == "True"
    assert _condition(first, "Failed").status == "False"
    assert first.training is not None
    assert (first.training.step, first.training.progress_percentage) == (24, 100)


def test_the_lora_file_loads_and_is_the_one_in_the_status(
    lab: Lab, first: FineTuneStatus, tmp_path: Path
) -> None:
    assert first.artifacts is not None
    path = lab.fetch(first.artifacts.lora_uri, tmp_path / "lora.safetensors")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first.artifacts.sha256
    assert path.stat().st_size == first.artifacts.size_bytes
    tensors = load_file(path)
    assert tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    trained = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    assert any(tensor.abs().max() > 0 for tensor in trained)


def test_the_loss_of_the_held_batch_fell(lab: Lab, first: FineTuneStatus) -> None:
    assert first.artifacts is not None
    lines = lab.text(layout.join(first.artifacts.run_uri, layout.METRICS)).splitlines()
    fixed = [row["fixedLoss"] for row in map(json.loads, lines) if row.get("fixedLoss") is not None]
    assert len(fixed) >= 2
    assert fixed[-1] < fixed[0]


def test_the_report_and_the_sample_are_there(lab: Lab, first: FineTuneStatus, tmp_path: Path) -> None:
    import av

    assert first.artifacts is not None
    page = lab.text(first.artifacts.report_uri)
    assert "first" in page
    assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://s3.devcluster.svc", "")
    path = lab.fetch(first.artifacts.sample_uris[0], tmp_path / "sample.mp4")
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 7


def test_kubectl_shows_what_a_person_wants_to_know(lab: Lab, first: FineTuneStatus) -> None:
    header, line = lab.kubectl.run("get", "mft", "first").splitlines()
    assert header.split() == ["NAME", "MODE", "PHASE", "PROGRESS", "LOSS", "AGE"]
    assert line.split()[:4] == ["first", "lora", "Succeeded", "100"]
    assert float(line.split()[4]) > 0
    lab.kubectl.run("wait", "mft/first", "--for=condition=Succeeded", "--timeout=5s")
    described = lab.kubectl.run("describe", "mft", "first")
    assert first.artifacts is not None
    assert first.artifacts.lora_uri in described
    assert lab.kubectl.run("logs", "job/first-videos").strip()


def test_a_second_run_reuses_the_embeddings_and_survives_the_loss_of_its_pod(
    lab: Lab, first: FineTuneStatus
) -> None:
    lab.apply("second", {"training.steps": 120, "training.checkpoint.everySteps": 10})
    with held_at(lab, "second", attempt=1, step=20) as pod:
        lab.kubectl.run("delete", "pod", pod, "--wait=false")
    ended = lab.succeeded("second")
    assert [stage.cache_hit for stage in ended.stages[1:4]] == [True] * 3
    assert ended.training is not None
    assert ended.training.step == 120
    assert ended.training.attempt == 2
    assert ended.attempts[-1].reason == "Preempted"
    assert ended.artifacts is not None
    assert trained_steps(lab, ended) == list(range(1, 121))
    assert "reused" in " ".join(event["message"] for event in lab.events("second"))


def test_samples_during_the_training_leave_its_weights_as_they_are(
    lab: Lab, first: FineTuneStatus, tmp_path: Path
) -> None:
    """By the schedule and by an annotation, both from the one checkpoint at which the training is held."""
    training = {"training.steps": 600, "training.checkpoint.everySteps": 10}
    lab.apply("unshown", training)
    lab.apply("shown", training | {"sampling.everySteps": 20})
    lab.until("shown", lambda status: _saved(status) >= 20, "a checkpoint in the status")
    with held_at(lab, "shown", attempt=1, step=20):
        made = lab.until("shown", lambda status: bool(_previews(status)), "samples of a checkpoint")
        assert [(item.name, item.state) for item in made.stages if item.name == "preview"] == [
            ("preview", "Succeeded")
        ]
        assert 20 <= _previews(made)[0].step < 600
        lab.kubectl.run("annotate", "mft", "shown", f"{ANNOTATION_SAMPLE_NOW}=now")
        asked = lab.until(
            "shown", lambda status: status.previews is not None and status.previews.asked == "now", "the wish"
        )
        assert asked.phase == "Training"
    ended, undisturbed = lab.succeeded("shown"), lab.succeeded("unshown")
    assert [item.reason for item in ended.attempts] == ["Completed"]
    assert ended.artifacts is not None
    assert undisturbed.artifacts is not None
    newest = _previews(ended)[0]
    assert lab.fetch(f"{newest.uri}/sample-00.mp4", tmp_path / "sample.mp4").stat().st_size > 0
    assert "Samples during training" in lab.text(ended.artifacts.report_uri)
    ours, others = (
        load_file(lab.fetch(status.artifacts.lora_uri, tmp_path / f"{number}.safetensors"))
        for number, status in enumerate((ended, undisturbed))
        if status.artifacts is not None
    )
    assert same(ours, others)


def _saved(status: FineTuneStatus) -> int:
    """Step of the newest checkpoint that the status names; 0 before the first."""
    latest = status.checkpoints.latest if status.checkpoints is not None else None
    return latest.step if latest is not None else 0


def _previews(status: FineTuneStatus) -> list[Preview]:
    """Samples during the training that the status names, newest first."""
    return list(status.previews.made) if status.previews is not None else []


def test_full_training_in_two_pods_begins_anew_as_a_whole_when_one_of_them_is_killed(
    lab: Lab, first: FineTuneStatus, tmp_path: Path
) -> None:
    lab.apply(
        "full",
        {"mode": "full", "training.lora": None, "workers": {"replicas": 2}, "training.learningRate": "0.001"},
    )
    killed = hold(lab, "full", attempt=1, step=8, rank=1)
    send(killed.processes, signal.SIGKILL)
    ended = lab.succeeded("full")
    assert ended.training is not None
    assert (ended.training.attempt, ended.training.step) == (2, 24)
    assert ended.attempts[-1].exit_code == 128 + signal.SIGKILL
    assert killed.pod in ended.attempts[-1].message
    assert trained_steps(lab, ended) == list(range(1, 25))
    assert ended.artifacts is not None
    tensors = load_file(lab.fetch(ended.artifacts.weights_uri, tmp_path / "dit.safetensors"))
    assert "blocks.0.attn.qkv_x.weight" in tensors
    lines = lab.text(layout.join(ended.artifacts.run_uri, layout.METRICS)).splitlines()
    fixed = [row["fixedLoss"] for row in map(json.loads, lines) if row.get("fixedLoss") is not None]
    assert fixed[-1] < fixed[0]


def test_deleting_the_resource_removes_everything_made_for_it(lab: Lab, first: FineTuneStatus) -> None:
    lab.apply("gone")
    lab.until("gone", lambda s: any(stage.state == "Running" for stage in s.stages), "a running stage")
    lab.kubectl.run("delete", "mft", "gone", "--timeout=180s", seconds=190)
    kinds, selector = "jobs,pytorchjobs,configmaps,pods", f"{GROUP}/finetune=gone"
    end = time.monotonic() + 60
    while left := lab.kubectl.run("get", kinds, "-l", selector, "-o", "name"):
        assert time.monotonic() < end, f"a minute after the deletion there are still {left}"
        time.sleep(1)
    with pytest.raises(KubectlError, match="NotFound"):
        lab.status("gone")
