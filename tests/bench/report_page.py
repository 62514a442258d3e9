"""Measures the report: its size, and the processor time that writing it takes, for small and large datasets.

How it behaves in a browser is measured by hand: open the files that it leaves, or print one to PDF.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from mochi_api.spec import S3Spec
from mochi_trainer.report.page import render
from mochi_trainer.storage import open_store

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.trainer.preprocessing_runs import run_file
from tests.trainer.report.realistic import write_run


def main() -> None:
    """Print a table; with a folder as argument leave the pages there."""
    kept = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    print("| clips | size | processor time |\n|---|---|---|")  # noqa: T201
    for clips in (200, 10_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            store, cache = (open_store(f"file://{folder / part}", S3Spec()) for part in ("runs/0-1", "cache"))
            write_run(store, cache, folder, clips=clips, failed=12)
            start = time.process_time()
            text = render(store, run_file(folder, frames=37, width=848, height=480), cache)
            seconds = time.process_time() - start
        print(f"| {clips:,} | {len(text) / 2**20:.1f} MiB | {seconds:.1f} s |", flush=True)  # noqa: T201
        if kept is not None:
            (kept / f"report-{clips}.html").write_text(text)


if __name__ == "__main__":
    main()
