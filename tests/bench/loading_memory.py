"""Host memory while weights are loaded: `python tests/bench/loading_memory.py [whole|folder|s3|ranks|published ...]`.

A transformer of 1.2 GB in float32, in four files with an index, is loaded in fresh processes. Counted is the peak of resident
memory above what the process had before, less the parameters that it keeps, as a share of the largest file; and the bytes
that were read. `whole` is the way without pieces, for comparison: each file through safetensors, mapped into memory. `published`
is the rows of one of 8 ranks at the published size, from a file of bfloat16 zeros that takes no room on disk.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from demo.nano.initial import initialise
from mochi_api.spec import S3Spec
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.parallel.group import joined
from mochi_trainer.parallel.ranks import ranks_of
from mochi_trainer.parallel.sharding import REPLICATED, own_rows, rows_of, shard
from mochi_trainer.presets import Preset, preset_named
from mochi_trainer.storage import Connection, open_store
from mochi_trainer.weights import check_parts, fill_dit, load_dit, meta_dit
from tests.trainer.conftest import BUCKET, serving
from tests.trainer.distributed import free_port
from tests.trainer.loading import CountingS3, CountingStore, write_hollow, write_shards

FILES = 4
DEPTH = 10
KINDS = ("whole", "folder", "s3", "ranks", "published")
RANKS = 8
"""Of the published model."""
MB = 10**6
LIMIT = 300.0
"""Seconds a process may take."""


@dataclass(frozen=True)
class Measured:
    """One process."""

    kept: int
    """Bytes of the parameters that it keeps."""
    above: int
    """Bytes at the peak above what was there before."""
    read: int
    """Bytes read from the files."""
    seconds: float
    """Of CPU time, since others use the machine too."""

    def share(self, largest: int) -> float:
        """What was needed besides the parameters, in files."""
        return (self.above - self.kept) / largest


def sizes(depth: int) -> Preset:
    """A third of the published widths; the text pooling has its published size."""
    params = DiTParams(
        depth=depth, visual_width=1024, text_width=512, heads=8, text_feature_width=4096, pooling_heads=8
    )
    return dataclasses.replace(preset_named("nano"), dit=params)


def write_model(folder: Path, depth: int, files: int) -> int:
    """The model in `files` files; return the bytes of the largest."""
    model = DiT(sizes(depth).dit)
    initialise(model, 1)
    return max(path.stat().st_size for path in write_shards(model.state_dict(), folder / "dit", files))


def measured(kind: str, address: str, depth: int, s3: S3Spec, world: int = 1) -> list[Measured]:
    """Load in `world` fresh processes; what each of them took."""
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = []
    for rank in range(world):
        ranks = {
            "RANK": f"{rank}",
            "WORLD_SIZE": f"{world}",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": f"{port}",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, "--one", kind, address, str(depth), s3.model_dump_json()],
                env={**environment, **ranks, "MOCHI_POD_IP": "127.0.0.1"},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        answers = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Measured(**json.loads(answer.splitlines()[-1])) for answer in answers]


def _one(kind: str, address: str, depth: int, s3: S3Spec) -> Measured:
    """In a process of its own: load, and count."""
    torch.set_num_threads(1)
    preset, source = sizes(depth), _counting(address, s3)
    check_parts(source, ["dit"])
    if kind == "published":
        return _published(source)
    if kind == "ranks":
        with joined(
            ranks_of(os.environ, processes=int(os.environ["WORLD_SIZE"])), torch.device("cpu"), limit=60
        ) as group:
            model = meta_dit(preset)
            shard(model, group, device=torch.device("cpu"), compute=torch.float32)
            with Counting(source) as count:
                model.to_empty(device="cpu")
                rows = own_rows(model)
                fill_dit(preset, source, rows)
            return count.measured([tensor for tensor, _ in rows.values()])
    with Counting(source) as count:
        if kind == "whole":
            model = _mapped(preset, Path(address))
        else:
            model = load_dit(preset, source, dtype=torch.bfloat16)
    return count.measured(list(model.parameters()))


def _published(source: CountingStore | CountingS3) -> Measured:
    shapes = {name: tensor.shape for name, tensor in meta_dit("mochi-1").state_dict().items()}
    with Counting(source) as count:
        rows = {}
        for name, shape in shapes.items():
            own = range(shape[0]) if name == REPLICATED else rows_of(shape[0], 1, RANKS)
            rows[name] = torch.empty(len(own), *shape[1:]), own.start
        fill_dit("mochi-1", source, rows)
    return count.measured([tensor for tensor, _ in rows.values()])


def _counting(address: str, s3: S3Spec) -> CountingStore | CountingS3:
    """The source that counts what is read from it."""
    if address.startswith("s3://"):
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        return CountingS3(bucket, prefix, Connection(s3))
    return CountingStore(Path(address))


def _mapped(preset: Preset, folder: Path) -> DiT:
    state = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                state[name] = file.get_tensor(name).to(torch.bfloat16)
    model = meta_dit(preset)
    model.load_state_dict(state, assign=True)
    return model


class Counting:
    """Inside the block the peak of this process's memory, as the kernel counts it, and the bytes read from `source`."""

    def __init__(self, source: CountingStore | CountingS3) -> None:
        self._source = source

    def __enter__(self) -> Counting:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before, self._read, self._began = _status("VmRSS"), self._source.total, time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._began
        self._peak, self._end = _status("VmHWM"), self._source.total

    def measured(self, tensors: Sequence[torch.Tensor]) -> Measured:
        kept = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
        return Measured(kept, self._peak - self._before, self._end - self._read, round(self.seconds, 2))


def _status(field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None, f"the kernel tells no {field}"
    return 1024 * int(match[1])


def _rows(kinds: Sequence[str], folder: Path) -> None:
    largest = write_model(folder / "model", DEPTH, FILES)
    whole = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
    sys.stdout.write(
        f"{FILES} files, {whole / MB:.0f} MB, the largest {largest / MB:.0f} MB; float32 in the files\n"
    )
    sys.stdout.write("| source | kept | above it | in files | read | CPU |\n|---|---|---|---|---|---|\n")
    for kind in kinds:
        for line, found in _measured_kind(kind, folder):
            sys.stdout.write(
                f"| {line} | {found.kept / MB:.0f} MB | {(found.above - found.kept) / MB:.0f} MB | "
                f"{'-' if kind == 'published' else format(found.share(largest), '.2f')} | {_read(kind, found)} | {found.seconds:.1f} s |\n"
            )
            sys.stdout.flush()


def _read(kind: str, found: Measured) -> str:
    return "not counted" if kind == "whole" else f"{found.read / MB:.0f} MB"


def _measured_kind(kind: str, folder: Path) -> list[tuple[str, Measured]]:
    address = str(folder / "model")
    if kind == "s3":
        (folder / "s3").mkdir()
        with serving(folder / "s3") as server:
            address = f"s3://{BUCKET}/model"
            for path in sorted((folder / "model").iterdir()):
                open_store(address, server.spec).put(path, path.name)
            return [("S3, bfloat16", *measured("s3", address, DEPTH, server.spec))]
    if kind == "ranks":
        found = measured(kind, address, DEPTH, S3Spec(), world=2)
        return [(f"folder, rank {rank} of 2, float32", each) for rank, each in enumerate(found)]
    if kind == "published":
        write_hollow(folder / "published/dit.safetensors", meta_dit("mochi-1").state_dict())
        found = measured(kind, str(folder / "published"), DEPTH, S3Spec())
        return [(f"folder, one of {RANKS} ranks, published size, float32", *found)]
    name = "folder, each file mapped" if kind == "whole" else "folder"
    return [(f"{name}, bfloat16", *measured(kind, address, DEPTH, S3Spec()))]


def main(arguments: Sequence[str]) -> None:
    """Print one line for each process."""
    if arguments[:1] == ["--one"]:
        kind, address, depth, s3 = arguments[1:]
        found = _one(kind, address, int(depth), S3Spec.model_validate_json(s3))
        sys.stdout.write(json.dumps(dataclasses.asdict(found)) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="mochi-bench-") as folder:
        _rows(arguments or KINDS, Path(folder))
    sys.stdout.write("again: python tests/bench/loading_memory.py\n")


if __name__ == "__main__":
    main(sys.argv[1:])
