"""What a run may meet before anything is paid for: told within a minute or so, in words that say whose move it is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mochi_api.status import FineTuneStatus
from mochi_trainer.presets.catalogue import NANO_FOLDER
from tests.e2e.lab import Lab
from tests.e2e.stories import LIMIT, Story, spec, under_way

SILENT = "127.0.0.2"
"""Address of a store that takes connections and says nothing."""
PRODUCT = "NVIDIA-GH200-480GB"


def name_taken(lab: Lab, _folder: Path) -> FineTuneStatus:
    """A Job of somebody else has the name of a child: it is left alone, and the run waits."""
    foreign = _foreign_job("taken-check")
    lab.kubectl.apply(foreign)
    lab.apply("taken", spec())
    told = lab.until("taken", lambda s: _reason(s, "Accepted") == "NameConflict", "the conflict", 90)
    assert "taken-check" in _message(told, "Accepted")
    lab.warned("taken", "taken-check")
    assert lab.kubectl.json("get", "job", "taken-check")["metadata"]["labels"]["owner"] == "somebody-else"
    lab.kubectl.run("delete", "job", "taken-check")
    status = lab.until(
        "taken", lambda s: _reason(s, "Accepted") == "Accepted" and bool(s.stages), "a start", 90
    )
    lab.delete("taken")
    return status


def no_such_gpu(lab: Lab, _folder: Path) -> FineTuneStatus:
    """No node has the GPU that the captions ask for."""
    asked = spec(
        preprocessing__captions={"gpus": 1},
        workers__gpuProducts=[PRODUCT],
        preprocessing__cachePolicy="Refresh",
    )
    lab.apply("no-gpu", asked)
    lab.until("no-gpu", lambda s: any(stage.name == "captions" for stage in s.stages), "the captions")
    lab.told("no-gpu", "the missing GPU", "nvidia.com/gpu.product", PRODUCT)
    lab.warned("no-gpu", "nvidia.com/gpu.product", PRODUCT)
    status = lab.status("no-gpu")
    lab.delete("no-gpu")
    return status


def silent_store(lab: Lab, _folder: Path) -> FineTuneStatus:
    """The store takes the connection and never answers."""
    with socket.create_server((SILENT, 0)) as server:
        endpoint = f"http://{SILENT}:{server.getsockname()[1]}"
        lab.apply("silent-store", spec(storage__s3__endpoint=endpoint, runPolicy__backoffLimit=0))
        status = lab.failed("silent-store")
    lab.warned("silent-store", endpoint)
    return status


def truncated_weights(lab: Lab, folder: Path) -> FineTuneStatus:
    """A copy of the weights was cut off."""
    whole = NANO_FOLDER / "dit.safetensors"
    (folder / "dit.safetensors").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return _with_transformer(lab, "truncated", folder / "dit.safetensors")


def weights_of_another_model(lab: Lab, folder: Path) -> FineTuneStatus:
    """Right in its form, but wider than nano."""
    tensors = load_file(NANO_FOLDER / "dit.safetensors")
    wider = {
        name: torch.zeros([2 * size for size in tensor.shape] or [1]) for name, tensor in tensors.items()
    }
    save_file(wider, folder / "dit.safetensors")
    return _with_transformer(lab, "other", folder / "dit.safetensors")


STORIES: tuple[Story, ...] = (
    name_taken,
    no_such_gpu,
    silent_store,
    truncated_weights,
    weights_of_another_model,
)
Told = Callable[[Story], FineTuneStatus]


@pytest.fixture(scope="module")
def told(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The end of a story; all of them begin at once."""
    with under_way(lab, tmp_path_factory.mktemp("cases"), STORIES) as futures:
        yield lambda story: futures[story].result(LIMIT)


def test_a_foreign_object_is_left_alone_and_waited_for(told: Told) -> None:
    assert _reason(told(name_taken), "Failed") != "NameConflict"


def test_a_gpu_that_no_node_has_is_named_with_its_label(told: Told) -> None:
    status = told(no_such_gpu)
    assert status.phase == "Preprocessing"
    captions = next(stage for stage in status.stages if stage.name == "captions")
    assert captions.trouble is not None
    assert PRODUCT in captions.trouble.message


def test_a_store_that_does_not_answer_is_found_by_the_check(told: Told) -> None:
    assert _failed_in_its_check(told(silent_store)) == "StorageError"


def test_truncated_weights_are_found_by_the_check(told: Told) -> None:
    status = told(truncated_weights)
    assert _failed_in_its_check(status) == "InvalidInput"
    assert "dit.safetensors is truncated" in _message(status, "Failed")


def test_weights_of_another_model_are_found_by_the_check(told: Told) -> None:
    status = told(weights_of_another_model)
    assert _failed_in_its_check(status) == "InvalidInput"
    assert "these are the weights of another model" in _message(status, "Failed")


def _with_transformer(lab: Lab, name: str, dit: Path) -> FineTuneStatus:
    """A run with the weights of nano, but this transformer."""
    bucket = lab.site.bucket
    for file in sorted(item for item in NANO_FOLDER.rglob("*") if item.is_file()):
        bucket.put_file(file, f"models/{name}/{file.relative_to(NANO_FOLDER)}")
    bucket.put_file(dit, f"models/{name}/dit.safetensors")
    lab.apply(name, spec(model__source={"s3": {"uri": f"s3://{bucket.name}/models/{name}/"}}))
    return lab.failed(name)


def _failed_in_its_check(status: FineTuneStatus) -> str:
    """Why the run has failed, which has come no further than its check."""
    assert [stage.name for stage in status.stages if stage.attempts] == ["check"]
    return _reason(status, "Failed")


def _foreign_job(name: str) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "theirs", "image": "theirs"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"owner": "somebody-else"}},
        "spec": {"suspend": True, "template": {"spec": pod}},
    }


def _reason(status: FineTuneStatus, kind: str) -> str:
    return next((item.reason for item in status.conditions if item.type == kind), "")


def _message(status: FineTuneStatus, kind: str) -> str:
    return next((item.message for item in status.conditions if item.type == kind), "")
