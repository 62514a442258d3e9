"""The addresses by which a pod finds what a run names."""

from __future__ import annotations

import pytest

from mochi_api.spec import PvcSource, S3Source, S3Spec, Source
from mochi_operator.build.config import DATASET_MOUNT, address
from mochi_trainer.storage import open_store


@pytest.mark.parametrize("path", ["/", "/clips", "/my clips", "/50% grey", "/a%20b", "/a%2Fb", "/é#?&+"])
def test_a_folder_of_a_volume_may_have_any_name(path: str) -> None:
    source = Source(pvc=PvcSource(claim_name="data", path=path))
    found = open_store(address(source, DATASET_MOUNT), S3Spec())
    assert found.address() == f"file://{DATASET_MOUNT}{path.rstrip('/')}"


def test_a_prefix_in_s3_is_what_it_is() -> None:
    assert address(Source(s3=S3Source(uri="s3://data/a%20b/")), DATASET_MOUNT) == "s3://data/a%20b/"
