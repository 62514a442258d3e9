"""What making one file of weights from another takes: `python tests/bench/export_memory.py`.

Three blocks of the published widths in bfloat16, 1.5 GB, on the local disk. Each conversion runs in a process of its own.
Memory is the peak of the process's anonymous memory (RssAnon, read every 2 ms) above what it was before the conversion:
the pages of the file that is read are not in it, the system takes them back when it wants to. The bound that matters is
the largest tensor, which does not grow with the number of blocks.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mochi_trainer.exports.conversion import write_diffusers_folder, write_merged, write_published
from mochi_trainer.lora import LoraParams, adapter_state, attach
from mochi_trainer.model import DiT, DiTParams
from mochi_trainer.weights.writing import Planned, write

PARAMS = DiTParams(depth=3)
LORA = LoraParams(rank=16, targets=("query", "value", "mlp_in"))
MB = 1e6


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def _measured(function: Callable[[], object]) -> tuple[float, float]:
    """Peak above the start, bytes, and seconds."""
    before = peak = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    function()
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    return peak - before, seconds


def _source(path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in DiT(PARAMS).named_parameters()}
    plan = {name: Planned(shape, torch.bfloat16) for name, shape in shapes.items()}
    write(path, plan, (torch.randn(shape).to(torch.bfloat16) for shape in shapes.values()), {})


def _adapter() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        model = DiT(PARAMS)
        attach(model, LORA)
    return {name: torch.randn(tensor.shape) for name, tensor in adapter_state(model).items()}


def _merge(folder: Path, state: dict[str, torch.Tensor]) -> None:
    write_merged([folder / "dit.safetensors"], state, LORA, folder / "merged.safetensors", {})


def _to_diffusers(folder: Path, _: object) -> None:
    for _ in write_diffusers_folder(
        folder / "dit.safetensors", PARAMS, folder / "transformer", {}, limit=10**9
    ):
        pass


def _back(folder: Path, _: object) -> None:
    with torch.device("meta"):
        names = list(DiT(PARAMS).state_dict())
    files = sorted((folder / "transformer").glob("*.safetensors"))
    write_published(files, names, PARAMS, folder / "back.safetensors", {})


CONVERSIONS = {"merge a LoRA": _merge, "to Diffusers": _to_diffusers, "back": _back}


def _child(name: str, folder: Path) -> None:
    torch.set_num_threads(1)
    state = _adapter()
    held, seconds = _measured(lambda: CONVERSIONS[name](folder, state))
    sys.stdout.write(f"| {name} | {held / MB:.0f} MB | {seconds:.1f} s |\n")
    sys.stdout.flush()


def main() -> None:
    """Print one line for each conversion."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="mochi-bench-") as name:
        folder = Path(name)
        _source(folder / "dit.safetensors")
        with torch.device("meta"):
            largest = max(p.numel() for p in DiT(PARAMS).parameters())
        size = (folder / "dit.safetensors").stat().st_size
        sys.stdout.write(
            f"file {size / MB:.0f} MB, largest tensor {2 * largest / MB:.0f} MB, in float32 {4 * largest / MB:.0f} MB\n"
            "| conversion | peak above the start | wall time |\n|---|---|---|\n"
        )
        sys.stdout.flush()
        for conversion in CONVERSIONS:
            process = multiprocessing.get_context("spawn").Process(target=_child, args=(conversion, folder))
            process.start()
            process.join()
        same = (folder / "dit.safetensors").stat().st_size == (folder / "back.safetensors").stat().st_size
        sys.stdout.write(f"the file that came back has the size of the first: {same}\n")


if __name__ == "__main__":
    main()
