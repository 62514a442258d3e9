"""Old checkpoints in S3: they go whatever checksum the server wants, and where they cannot go training does."""

from __future__ import annotations

import logging
from pathlib import Path
from uuid import uuid4

import pytest

from mochi_api.runfile import RunFile
from mochi_trainer.jobs import train
from mochi_trainer.storage import open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, Fault, FaultProxy, Request, fault_proxy
from tests.trainer.training_runs import run_file, write_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deletion")
    write_dataset(folder)
    return folder


def _run(root: Path, proxy: FaultProxy) -> RunFile:
    """10 steps with a checkpoint every 2, of which one is kept."""
    run = run_file(root, steps=10, checkpoint={"everySteps": 2, "keepLast": 1})
    places = run.locations.model_copy(update={"run": f"s3://{BUCKET}/{uuid4().hex}"})
    return run.model_copy(update={"locations": places, "s3": proxy.spec})


def _left(run: RunFile, server: Server) -> set[str]:
    keys = [info.key for info in open_store(run.locations.run, server.spec).list("checkpoints/")]
    return {key.split("/")[1] for key in keys}


def test_a_server_that_wants_content_md5_keeps_no_old_checkpoint(root: Path, s3_server: Server) -> None:
    def rule(request: Request) -> Fault | None:
        wanted = request.deletes_many or request.method == "PUT"
        refused = wanted and "content-md5" not in request.headers
        return Answer(status=400, code="MissingContentMD5") if refused else None

    with fault_proxy(s3_server.spec, rule) as proxy:
        run = _run(root, proxy)
        assert train.execute(run).result is not None
    assert _left(run, s3_server) == {"step-000010"}


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(status=403, code="AccessDenied", words="no s3:DeleteObject"),
        Answer(status=405, code="MethodNotAllowed"),
        Answer(status=404, code="NoSuchBucket"),
        Answer(status=501, body=b"<html>not here</html>"),
    ],
    ids=lambda answer: str(answer.status),
)
def test_training_goes_on_where_nothing_can_be_deleted_and_says_so_once(
    refusal: Answer, root: Path, s3_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(request: Request) -> Fault | None:
        return refusal if request.method == "DELETE" or request.deletes_many else None

    with caplog.at_level(logging.INFO), fault_proxy(s3_server.spec, rule) as proxy:
        run = _run(root, proxy)
        assert train.execute(run).result is not None
    warnings = [
        r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "stay" in r.getMessage()
    ]
    assert len(warnings) == 1
    assert f"old checkpoints in {run.locations.run}/checkpoints stay" in warnings[0]
    assert len(_left(run, s3_server)) == 5
