"""Thirty runs applied at once on one dataset, on a real control plane: how often each clip and caption is made.

`python -m tests.bench.thirty_runs [RUNS] [CLIPS]`; minutes on two cores, since each run has pods of its own. Every run is deleted
when its stages are through: the training is not what is counted. The sums are of what the stages themselves say.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mochi_api import layout
from mochi_api.identity import API_VERSION, KIND
from tests.e2e.lab import RESOURCE, Lab, opened
from tests.trainer.jobs_preprocessing.killed import write_clips

STAGES = ("trim", "captions", "videos")
LIMIT_SECONDS = 3600.0
_PART = {
    "trim": re.compile(r"made \d+ of (?P<all>\d+) clips(?:, (?P<cached>\d+) of them from the cache)?"),
    "captions": re.compile(r"made features of (?P<all>\d+) captions(?:, (?P<made>\d+) of \d+ different)?"),
    "videos": re.compile(r"made latents of (?P<all>\d+) clips(?:, (?P<cached>\d+) of them from the cache)?"),
}


def made(stage: str, message: str) -> int:
    """How many units a stage says to have made itself; captions have the empty prompt besides."""
    found = _PART[stage].match(message)
    if found is None:
        assert message.startswith("reused"), f"{stage}: {message}"
        return 0
    numbers = {name: int(text) for name, text in found.groupdict().items() if text is not None}
    if "made" in numbers:
        return numbers["made"]
    return numbers["all"] + (stage == "captions") - numbers.get("cached", 0)


def main() -> None:
    """Print how often each kind of unit was made, against once."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    clips = int(sys.argv[2]) if len(sys.argv) > 2 else 12
    with tempfile.TemporaryDirectory(prefix="mochi-runs-") as name:
        root = Path(name)
        write_clips(root / "clips", clips)
        with opened(Path(__file__).parents[2], root / "cluster", nodes=1) as lab:
            for path in sorted((root / "clips").iterdir()):
                lab.site.bucket.put_file(path, f"many/{path.name}")
            begun = time.monotonic()
            sums = _through(lab, _applied(lab, runs))
            seconds = time.monotonic() - begun
    for stage in STAGES:
        once = clips + (stage == "captions")
        sys.stdout.write(f"{stage}: {sums[stage]} made by {runs} runs, {sums[stage] / once:.2f} times each\n")
    sys.stdout.write(f"{seconds:.0f} s until the stages of all were through\n")


def _applied(lab: Lab, runs: int) -> list[str]:
    spec = lab.spec(
        {
            "dataset.source.s3.uri": f"s3://{lab.site.bucket.name}/many/",
            "preprocessing.videos.reconstructEvery": 0,
            "sampling.prompts": [],
        }
    )
    names = [f"run-{number:02}" for number in range(runs)]
    items = [
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec} for name in names
    ]
    lab.kubectl.run(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    )
    return names


def _through(lab: Lab, names: list[str]) -> Counter[str]:
    sums: Counter[str] = Counter()
    left, end = set(names), time.monotonic() + LIMIT_SECONDS
    while left:
        assert time.monotonic() < end, f"{len(left)} runs are not through\n{lab.evidence(min(left))}"
        for item in lab.kubectl.json("get", RESOURCE)["items"]:
            name = item["metadata"]["name"]
            assert item.get("status", {}).get("phase") != "Failed", lab.evidence(name)
            if name in left and _has_all(item):
                sums.update(_made(lab, item["metadata"]["uid"]))
                left.remove(name)
                lab.kubectl.run("delete", RESOURCE, name, "--wait=false")
        time.sleep(2)
    return sums


def _has_all(item: dict[str, Any]) -> bool:
    done = {s["name"] for s in item.get("status", {}).get("stages", []) if s["state"] == "Succeeded"}
    return done.issuperset(STAGES)


def _made(lab: Lab, uid: str) -> Counter[str]:
    root = layout.run_root(f"s3://{lab.site.bucket.name}/", uid)
    found: Counter[str] = Counter()
    for stage in STAGES:
        record = json.loads(lab.text(layout.join(root, layout.stage_record("", stage))))
        found[stage] = made(stage, record["outcome"]["message"])
    return found


if __name__ == "__main__":
    main()
