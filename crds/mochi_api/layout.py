"""Where everything lies in storage: the one module that names keys.

```
<cacheURI or outputURI>/cache/{trim,captions,videos}/<key>/...   manifest.json written last
<cacheURI or outputURI>/cache/videos/<key>/reconstructions/<key>/...   likewise
<cacheURI or outputURI>/cache/<stage>/units/<family>/...         one clip each, immutable; the manifests above list them
<cacheURI or outputURI>/cache/<stage>/records/<family>/...       what the units' records say, many in one object
<cacheURI or outputURI>/cache/<stage>/claims/<family>/...        who makes which of them at the moment
<outputURI>/runs/<uid>/checkpoints/step-000200/...               manifest.json written last; of attempt 2: step-000200-a2
<outputURI>/runs/<uid>/attempts/a000002.json                     attempt 2 of the training has begun
<outputURI>/runs/<uid>/samples/step-000400/...                   from a checkpoint, during the training; samples.json written last
<outputURI>/runs/<uid>/{samples,artifacts,stages}/  report.html  metrics.jsonl  held-out.json  tensorboard/  wandb/  run.yaml
```
A directory without its manifest does not exist.
"""

from __future__ import annotations

import re

MANIFEST = "manifest.json"
REPORT = "report.html"
METRICS = "metrics.jsonl"
HELD_OUT = "held-out.json"
"""The clips that a training holds out, chosen when it begins."""
EVENTS = "tensorboard/events.out.tfevents.0.mochi"
"""The same for TensorBoard, which knows its files by a part of their names."""
WANDB = "wandb"
"""Folder of offline runs of Weights & Biases, for `wandb sync`."""
RUN_FILE = "run.yaml"
LORA = "artifacts/lora.safetensors"
LORA_COMFYUI = "artifacts/lora-comfyui.safetensors"
LORA_BEST = "artifacts/lora-best.safetensors"
"""The adapter of the best checkpoint, where that is not the last one."""
MERGED = "artifacts/dit-merged.safetensors"
WEIGHTS = "artifacts/dit.safetensors"
UNAVERAGED = "artifacts/dit-unaveraged.safetensors"
"""The weights of the last step themselves, where `WEIGHTS` has their average."""
DIFFUSERS = "artifacts/transformer"
"""Folder with the tuned weights as Diffusers loads them."""
CARD = "artifacts/README.md"


def join(base: str, *parts: str) -> str:
    """`base` and `parts` with single slashes between them; an empty `base` gives a key relative to a store's root."""
    return "/".join(part for part in (base.rstrip("/"), *(part.strip("/") for part in parts)) if part)


def folder(path: str) -> str:
    """The address of an absolute folder. Who opens one takes `%20` in it for a blank, so a `%` of its name is written out."""
    return "file://" + path.replace("%", "%25")


def cache_root(output_uri: str, cache_uri: str) -> str:
    """The address below which embeddings are shared by all runs that name it."""
    return join(cache_uri or output_uri, "cache")


def run_root(output_uri: str, uid: str) -> str:
    """The address of everything that belongs to one run alone."""
    return join(output_uri, "runs", uid)


def cache_entry(cache: str, stage: str, key: str) -> str:
    """The directory of one stage's output for one cache key."""
    return join(cache, stage, key)


def units(cache: str, stage: str, family: str) -> str:
    """The directory of a stage's units: what was made of single clips, for all runs with the same settings."""
    return join(cache, stage, "units", family)


def claims(cache: str, stage: str, family: str) -> str:
    """The directory in which processes say which of these units they make."""
    return join(cache, stage, "claims", family)


def records(cache: str, stage: str, family: str) -> str:
    """The directory in which the records of these units are repeated, many in one object, to be read at once."""
    return join(cache, stage, "records", family)


def checkpoint(run: str, step: int, attempt: int) -> str:
    """The directory of the checkpoint that an attempt writes after `step` steps: no two attempts share one.

    Attempt 1 has the name that earlier versions gave to all.
    """
    suffix = "" if attempt == 1 else f"-a{attempt}"
    return join(run, "checkpoints", f"step-{step:06d}{suffix}")


SAMPLES = "samples.json"


def preview(run: str, step: int) -> str:
    """The directory of the sample videos that were made of the checkpoint after `step` steps; `SAMPLES` in it describes them."""
    return join(run, "samples", f"step-{step:06d}")


def claim(run: str, attempt: int) -> str:
    """The object with which an attempt of the training says that it has begun."""
    return join(run, "attempts", f"a{attempt:06d}.json")


def stage_record(run: str, stage: str) -> str:
    """The JSON in which a stage leaves its result for the report."""
    return join(run, "stages", f"{stage}.json")


_UID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RESULT = re.compile(
    rf"(.*/)?(runs/{_UID}|cache/(trim|captions|videos)/([0-9a-f]{{32}}|units|records|claims))/.*", re.DOTALL
)


def is_result(key: str) -> bool:
    """Whether a key, whatever comes before, has the form of what a run of the cluster leaves."""
    return _RESULT.fullmatch(key) is not None
