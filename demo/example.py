"""The example that the demo applies, its two addresses where the site differs from the dev cluster's, and its GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from demo.sites import CLIPS, Site

FILES = {"lora": "lora-nano.yaml", "full": "full-nano.yaml"}


def read(folder: Path, mode: str) -> dict[str, Any]:
    """The manifest in `examples/` for a mode."""
    manifest: dict[str, Any] = yaml.safe_load((folder / FILES[mode]).read_text())
    return manifest


def placed(manifest: dict[str, Any], site: Site) -> dict[str, Any]:
    """The manifest with the bucket and the S3 endpoint of `site`."""
    spec = manifest["spec"]
    s3 = {**spec["storage"]["s3"], "endpoint": site.endpoint, "pathStyle": bool(site.endpoint)}
    root = f"s3://{site.bucket.name}/"
    storage = {**spec["storage"], "outputURI": root, "s3": s3}
    _, _, below = spec["dataset"]["source"]["s3"]["uri"].partition(f"/{CLIPS}/")
    dataset = {**spec["dataset"], "source": {"s3": {"uri": f"{root}{CLIPS}/{below}"}}}
    return {**manifest, "spec": {**spec, "dataset": dataset, "storage": storage}}


def with_gpus(manifest: dict[str, Any], gpus: int) -> dict[str, Any]:
    """The manifest with one training pod of so many GPUs, of any product, and a clip for each in a step; 0 changes nothing."""
    if not gpus:
        return manifest
    spec = manifest["spec"]
    workers = {**spec.get("workers", {}), "replicas": 1, "gpusPerPod": gpus, "gpuProducts": []}
    training = {**spec["training"], "globalBatchSize": gpus}
    limits = {"limits": "Memory"} if _needs_limits(spec["mode"], gpus) else {}
    return {**manifest, "spec": {**spec, **limits, "workers": workers, "training": training}}


def changes(mode: str, gpus: int) -> str:
    """What `with_gpus` changes, for people."""
    limits = "limits: Memory, " if _needs_limits(mode, gpus) else ""
    return (
        f"{limits}workers.replicas: 1, gpusPerPod: {gpus}, gpuProducts: [], training.globalBatchSize: {gpus}"
    )


def _needs_limits(mode: str, gpus: int) -> bool:
    return mode == "lora" and gpus > 1
