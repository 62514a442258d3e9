"""Host memory while weights are loaded, counted by the kernel in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.storage import open_store
from mochi_trainer.weights.filling import AHEAD
from mochi_trainer.weights.stored import PIECE_BYTES
from tests.bench.loading_memory import measured, write_model
from tests.trainer.conftest import BUCKET

DEPTH = 2
PIECES = AHEAD * PIECE_BYTES + (64 << 20)
"""Pieces under way, 32 MiB as ever, and 64 MiB for the one that is copied and what allocator and libraries hold."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """0.4 GB in three files, and the bytes of the largest."""
    folder = tmp_path_factory.mktemp("model")
    return folder, write_model(folder, DEPTH, 3)


@pytest.mark.parametrize("kind", ["folder", "s3", "ranks"])
def test_a_process_needs_little_more_than_the_parameters_that_it_keeps(
    model: tuple[Path, int], kind: str, request: pytest.FixtureRequest
) -> None:
    folder, largest = model
    address, spec = str(folder), S3Spec()
    if kind == "s3":
        spec, address = request.getfixturevalue("s3_server").spec, f"s3://{BUCKET}/memory"
        for path in folder.iterdir():
            open_store(address, spec).put(path, path.name)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    world = 2 if kind == "ranks" else 1
    for found in measured(kind, address, DEPTH, spec, world):
        assert found.share(largest) <= 1.15
        assert found.above - found.kept <= PIECES
        assert size / world * 0.98 <= found.read <= size / world * 1.02
