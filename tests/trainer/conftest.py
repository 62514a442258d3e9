"""Fixtures of the trainer's tests: the two stores, the second one on a real S3 server."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from devcluster.binaries import find
from mochi_api.spec import S3Spec
from mochi_trainer.storage import Store, open_store

BUCKET = "data"


@dataclass(frozen=True)
class Server:
    """A running S3 server with one bucket."""

    spec: S3Spec
    folder: Path
    """Where the server keeps its objects, as files."""
    admin: tuple[str, str]
    """Keys that may do everything."""


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command that is called here ignores SIGTERM at its end, as a pod's process may; all that is started later would too."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[Server]:
    """An S3 server of this session; its keys are in the environment, as in a pod."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """An S3 server on loopback that keeps its objects in `folder`, for the length of the block; `options` are further ones of its own."""
    program = find("versitygw")
    if program is None:
        pytest.fail("versitygw is not built yet: run `make setup`")
    for name in ("data", "attributes"):
        (folder / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    access, secret = "tester", secrets.token_hex(16)
    before = dict(os.environ)
    server = subprocess.Popen(
        [
            program,
            "--port",
            f"127.0.0.1:{port}",
            "--quiet",
            *options,
            "posix",
            "--sidecar",
            folder / "attributes",
            folder / "data",
        ],
        env={"PATH": "/usr/bin", "ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ.update(
        AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret, AWS_EC2_METADATA_DISABLED="true"
    )
    try:
        _wait_for(port, server)
        spec = S3Spec(endpoint=f"http://127.0.0.1:{port}", path_style=True, credentials_secret_name="s3-keys")
        session = boto3.session.Session(access, secret)  # the default one keeps the keys of the first server
        client = session.client("s3", endpoint_url=spec.endpoint, region_name=spec.region)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield Server(spec, folder / "data" / BUCKET, (access, secret))
    finally:
        server.terminate()
        server.wait(timeout=60)
        os.environ.clear()
        os.environ.update(before)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("versitygw did not start within 30 s")


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "local":
        return open_store(f"file://{tmp_path}/root", S3Spec())
    server: Server = request.getfixturevalue("s3_server")
    return open_store(f"s3://{BUCKET}/{uuid4().hex}/inner/", server.spec)
