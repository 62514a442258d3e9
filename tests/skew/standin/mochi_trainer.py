"""A trainer that costs nothing and does as it is told: `python -m mochi_trainer STEP --run FILE`, as in the images.

The file `<run>.<step>.<attempt>` below `$MOCHI_STANDIN_ORDERS` holds its orders: `hold` runs on until the file says
something else, `fail CODE REASON` ends so, and no file, or an empty one, is a success at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

POLL_SECONDS = 0.25
STEPS = 20
HELD_AT = 8
STORE = "s3://standin"


def main() -> int:
    """Follow the orders."""
    step, path = sys.argv[1], Path(sys.argv[3])
    run = yaml.safe_load(path.read_text(encoding="utf-8"))["run"]
    orders = Path(os.environ["MOCHI_STANDIN_ORDERS"]) / f"{run['name']}.{step}.{run.get('attempt', 1)}"
    rank = int(os.environ.get("RANK", "0"))
    if step == "train" and rank == 0:
        _serve()
    while (said := _said(orders)) == "hold":
        time.sleep(POLL_SECONDS)
    if said:
        _, code, reason = said.split()
        return _leave({"reason": reason, "message": "told to fail", "rank": rank}, int(code))
    return _leave({"reason": "Completed", "message": "done", "rank": rank, **_result(step, rank)}, 0)


def _said(orders: Path) -> str:
    try:
        return orders.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _result(step: str, rank: int) -> dict[str, Any]:
    if step == "check":
        return {"checkResult": {"clips": 3}}
    if step == "sample":
        return {"sampleResult": {"sampleURIs": [f"{STORE}/a.mp4"], "reportURI": f"{STORE}/report.html"}}
    if step != "train":
        return {"stageResult": {"cacheKey": f"key-{step}", "itemsTotal": 3, "itemsDone": 3}}
    if rank:
        return {}
    made = {
        "artifactURI": f"{STORE}/lora.safetensors",
        "sha256": "ab",
        "sizeBytes": 7,
        "finalStep": STEPS,
        "finalLoss": 0.25,
        "checkpointURI": f"{STORE}/checkpoints/step-{STEPS:06d}",
    }
    return {"trainingResult": made}


def _leave(outcome: dict[str, Any], code: int) -> int:
    Path("/dev/termination-log").write_text(json.dumps(outcome) + "\n", encoding="utf-8")
    return code


class _Progress(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/progress":
            self.send_error(404)
            return
        document = {
            "step": HELD_AT,
            "totalSteps": STEPS,
            "loss": 0.5,
            "gradNorm": 1.0,
            "stepSeconds": 1.0,
            "lastStepTime": time.time(),
            "checkpointStep": HELD_AT,
            "checkpointUri": f"{STORE}/checkpoints/step-{HELD_AT:06d}",
            "checkpointTime": 1_700_000_000.0,
        }
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        return


def _serve() -> None:
    server = ThreadingHTTPServer((os.environ.get("MOCHI_POD_IP", ""), 9464), _Progress)
    threading.Thread(target=server.serve_forever, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
