"""A dataset that lies on a PersistentVolumeClaim instead of in S3."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import clips
from mochi_api.status import FineTuneStatus
from tests.e2e.lab import Lab

CLAIM = "dissolve"


def _manifests(lab: Lab, folder: Path) -> list[dict[str, Any]]:
    """A volume that is this folder of the host, and the claim it is reserved for."""
    common = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    volume = {
        **common,
        "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder), "type": "Directory"},
        "claimRef": {"namespace": lab.kubectl.namespace, "name": CLAIM},
    }
    claim = {**common, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": CLAIM}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": CLAIM}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim},
    ]


@pytest.fixture
def folder(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """The folder with the clips that a bound claim gives to pods."""
    below = tmp_path / "team" / "dissolve"
    below.mkdir(parents=True)
    for clip in clips.bundled():
        shutil.copyfile(clip.path, below / f"{clip.name}{clip.path.suffix}")
        (below / f"{clip.name}.txt").write_text(clip.caption)
    lab.kubectl.apply(*_manifests(lab, tmp_path))
    lab.kubectl.run(
        "wait", f"pvc/{CLAIM}", "--for=jsonpath={.status.phase}=Bound", "--timeout=180s", seconds=190
    )
    yield below
    lab.kubectl.run("delete", f"pvc/{CLAIM}", f"pv/{CLAIM}", "--wait=false")


def _trimmed(status: FineTuneStatus) -> bool:
    return any(stage.name == "trim" and stage.state == "Succeeded" for stage in status.stages)


def test_clips_on_a_claim_are_trimmed(lab: Lab, folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    lab.apply("volume", {"dataset.source": {"pvc": {"claimName": CLAIM, "path": "/team/dissolve"}}})
    try:
        status = lab.until("volume", _trimmed, "the end of trim")
    finally:
        lab.kubectl.run("delete", "mft", "volume", "--timeout=180s", seconds=190)
    trim = next(stage for stage in status.stages if stage.name == "trim")
    assert (trim.items_total, trim.items_done, trim.items_failed) == (3, 3, 0)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
