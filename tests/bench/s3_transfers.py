"""Ways to move bytes to and from S3, side by side: boto3 as it is, boto3's transfers by the CRT, and obstore.

`python -m tests.bench.s3_transfers --size 128 --repeats 3` in an environment that has `awscrt` and `obstore` too. All ways
take turns in each repeat, so that a busy machine is busy for all; figures are medians and ratios to the first way.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from mochi_api.spec import S3Spec
from mochi_trainer.storage import open_store
from tests.bench.slow_link import slow_link
from tests.trainer.conftest import BUCKET, serving

MIB = 1 << 20
PART = 8 * MIB
Way = Callable[[Path], None]


class Ways:
    """Each way to download and upload one object at an endpoint."""

    def __init__(self, endpoint: str, source: Path) -> None:
        self.endpoint, self.source, self.size = endpoint, source, source.stat().st_size
        config = Config(
            s3={"addressing_style": "path"}, max_pool_connections=64,
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        )  # fmt: skip
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)

    def all(self) -> dict[str, tuple[Way, Way]]:
        """Download and upload by name; the first is how it was done at first."""
        found = {f"boto3, {n} at once": (self.boto3_get(n), self.boto3_put(n)) for n in (4, 8, 16, 32)}
        found |= {f"ranges in {n} threads": (self.ranges_get(n), self.boto3_put(n)) for n in (8, 16)}
        found["the trainer's store"] = self.store()
        if importlib.util.find_spec("awscrt"):
            found["boto3 with the CRT"] = self.crt()
        if importlib.util.find_spec("obstore"):
            found |= {f"obstore, {n} at once": self.obstore(n) for n in (8, 16)}
        return found

    def boto3_get(self, at_once: int) -> Way:
        transfer = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=at_once)
        return lambda to: self.client.download_file(BUCKET, "large", str(to), Config=transfer)

    def boto3_put(self, at_once: int) -> Way:
        transfer = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=at_once)
        return lambda _: self.client.upload_file(str(self.source), BUCKET, "made", Config=transfer)

    def ranges_get(self, at_once: int) -> Way:
        """As weights are read: each range a request of its own."""

        def read(target: int, start: int) -> None:
            span = f"bytes={start}-{min(start + PART, self.size) - 1}"
            body = self.client.get_object(Bucket=BUCKET, Key="large", Range=span)["Body"]
            while piece := body.read(64 * 1024):
                start += os.pwrite(target, piece, start)

        def get(to: Path) -> None:
            with to.open("wb") as file, ThreadPoolExecutor(at_once) as pool:
                list(pool.map(lambda start: read(file.fileno(), start), range(0, self.size, PART)))

        return get

    def store(self) -> tuple[Way, Way]:
        """As it is done now."""
        store = open_store(f"s3://{BUCKET}/", S3Spec(endpoint=self.endpoint, path_style=True))
        return lambda to: store.get("large", to), lambda _: store.put(self.source, "made")

    def crt(self) -> tuple[Way, Way]:
        """boto3's own switch to the CRT knows AWS's endpoints only; this is what it switches to."""
        from s3transfer.crt import (
            BotocoreCRTCredentialsWrapper,
            BotocoreCRTRequestSerializer,
            CRTTransferManager,
            create_s3_crt_client,
        )

        session = botocore.session.get_session()
        wrapper = BotocoreCRTCredentialsWrapper(session.get_credentials())
        client = create_s3_crt_client(
            region="us-east-1", crt_credentials_provider=wrapper.to_crt_credentials_provider(),
            part_size=PART, use_ssl=False,
        )  # fmt: skip
        arguments: dict[str, Any] = {"region_name": "us-east-1", "endpoint_url": self.endpoint}
        arguments["config"] = Config(
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
        )
        manager = CRTTransferManager(client, BotocoreCRTRequestSerializer(session, arguments))
        return (
            lambda to: manager.download(BUCKET, "large", str(to)).result(),
            lambda _: manager.upload(str(self.source), BUCKET, "made").result(),
        )

    def obstore(self, at_once: int) -> tuple[Way, Way]:
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            BUCKET, endpoint=self.endpoint, region="us-east-1", virtual_hosted_style_request=False,
            access_key_id=os.environ["AWS_ACCESS_KEY_ID"], secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True, "timeout": "300s"},
        )  # fmt: skip

        def get(to: Path) -> None:
            def read(start: int) -> None:
                data = obstore.get_range(store, "large", start=start, length=min(PART, self.size - start))
                os.pwrite(file.fileno(), data, start)

            with to.open("wb") as file, ThreadPoolExecutor(at_once) as pool:
                list(pool.map(read, range(0, self.size, PART)))

        return (
            get,
            lambda _: (
                obstore.put(
                    store, "made", self.source, use_multipart=True, chunk_size=PART, max_concurrency=at_once
                )
                and None
            ),
        )  # type: ignore[func-returns-value]


def measured(act: Way, to: Path) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    act(to)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(endpoint: str, source: Path, folder: Path, repeats: int) -> None:
    """Print a table of all ways at one endpoint."""
    ways = Ways(endpoint, source)
    ways.boto3_put(4)(folder)
    ways.client.copy_object(Bucket=BUCKET, Key="large", CopySource={"Bucket": BUCKET, "Key": "made"})
    found = ways.all()
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for name, pair in found.items():
            for direction, act in enumerate(pair):
                to = folder / "copy"
                times.setdefault((name, direction), []).append(measured(act, to))
                if direction == 0:
                    assert to.stat().st_size == ways.size, f"{name}: {to.stat().st_size} of {ways.size} bytes"
    mib = ways.size / MIB
    first = [statistics.median(wall for wall, _ in times[next(iter(found)), d]) for d in (0, 1)]
    _say(f"| way | down MiB/s | ratio | CPU s | up MiB/s | ratio | CPU s |\n|{'---|' * 7}")
    for name in found:
        cells = []
        for direction in (0, 1):
            wall = statistics.median(wall for wall, _ in times[name, direction])
            cpu = statistics.median(cpu for _, cpu in times[name, direction])
            cells += [f"{mib / wall:.0f}", f"{first[direction] / wall:.2f}", f"{cpu:.2f}"]
        _say(f"| {name} | {' | '.join(cells)} |")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=128, help="MiB of the object")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--delay", type=float, default=0.02, help="seconds that an answer takes longer on the link"
    )
    parser.add_argument("--rate", type=float, default=10, help="MiB a second of one connection on the link")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        folder, source = Path(name), Path(name) / "source"
        source.write_bytes(os.urandom(options.size * MIB))
        _say(f"\nloopback, {options.size} MiB, median of {options.repeats}\n")
        compare(server.spec.endpoint, source, folder, options.repeats)
        port = int(server.spec.endpoint.rpartition(":")[2])
        with slow_link(port, delay=options.delay, bytes_per_second=options.rate * MIB) as slow:
            _say(f"\n{options.delay * 1000:.0f} ms, {options.rate:g} MiB/s a connection\n")
            compare(f"http://127.0.0.1:{slow}", source, folder, options.repeats)


if __name__ == "__main__":
    main()
