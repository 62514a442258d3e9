"""Bad input on a real control plane: each fault ends with a reason in status, Events and, where it can be, the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from demo import clips, install
from mochi_api import layout
from tests.e2e.lab import Lab

FAULTS: Mapping[str, Mapping[str, Any]] = {
    "no-caption": {"dataset.source.s3.uri": "s3://demo/no-caption/"},
    "corrupt": {"dataset.source.s3.uri": "s3://demo/corrupt/"},
    "tolerated": {"dataset.source.s3.uri": "s3://demo/corrupt/", "preprocessing.maxFailedItemsPercent": 50},
    "wrong-bucket": {"dataset.source.s3.uri": "s3://no-such-bucket/clips/"},
    "wrong-keys": {"storage.s3.credentialsSecretName": "wrong-keys"},
    "no-secret": {"storage.s3.credentialsSecretName": "no-such-secret"},
    "empty-prefix": {"dataset.source.s3.uri": "s3://demo/nothing-here/"},
}


@pytest.fixture(scope="module")
def faulty(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """All faulty runs, applied at once."""
    bucket = lab.site.bucket
    good, other, _ = clips.bundled()
    clips.upload(bucket, "no-caption", [good])
    bucket.put_file(other.path, "no-caption/silent.mp4")
    clips.upload(bucket, "corrupt", [good, other])
    broken = tmp_path_factory.mktemp("clips") / "broken.mp4"
    broken.write_bytes(good.path.read_bytes()[:20_000])
    bucket.put_file(broken, "corrupt/broken.mp4")
    bucket.put_text("a clip that was cut off while it was copied", "corrupt/broken.txt")
    lab.kubectl.apply(install.storage_secret("wrong-keys", "nobody", "wrong"))
    for name, changes in FAULTS.items():
        lab.apply(name, dict(changes))
    return lab


@pytest.mark.parametrize(
    ("name", "reason", "words", "has_report"),
    [
        ("no-caption", "MissingObject", ["silent.mp4", "silent.txt"], True),
        ("corrupt", "DatasetRejected", ["1 of 3", "10", "broken.mp4"], True),
        ("wrong-bucket", "MissingObject", ["no-such-bucket"], True),
        ("wrong-keys", "AccessDenied", ["wrong-keys"], False),
        ("no-secret", "MissingObject", ["no-such-secret"], False),
        ("empty-prefix", "DatasetRejected", ["s3://demo/nothing-here/"], True),
    ],
)
def test_a_fault_is_explained_wherever_a_user_looks(
    faulty: Lab, name: str, reason: str, words: list[str], has_report: bool
) -> None:
    status = faulty.failed(name)
    failed = next(condition for condition in status.conditions if condition.type == "Failed")
    assert failed.status == "True"
    assert failed.reason == reason, failed.message
    assert [word for word in words if word not in failed.message] == [], failed.message
    warnings = [event["message"] for event in faulty.events(name) if event["type"] == "Warning"]
    assert any(all(word in message for word in words) for message in warnings), warnings
    if has_report:
        uid = faulty.kubectl.json("get", "mft", name)["metadata"]["uid"]
        page = faulty.text(layout.join(layout.run_root("s3://demo/", uid), layout.REPORT))
        assert reason in page
        assert [word for word in words if word not in page] == []


def test_a_bad_clip_within_the_limit_is_counted_and_the_run_goes_on(faulty: Lab, tmp_path: Path) -> None:
    status = faulty.until(
        "tolerated",
        lambda s: any(stage.name == "trim" and stage.state == "Succeeded" for stage in s.stages),
        "trim",
    )
    trim = next(stage for stage in status.stages if stage.name == "trim")
    assert (trim.items_total, trim.items_done, trim.items_failed) == (3, 2, 1)
    assert [item.clip for item in trim.failures] == ["broken.mp4"]
    faulty.kubectl.run("delete", "mft", "tolerated", "--timeout=180s", seconds=190)
