"""The card of a run: where its weights come from, with what settings, how well it went, and how to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mochi_api import layout
from mochi_api.resolved import buckets
from mochi_api.runfile import RunFile
from mochi_api.spec import EmaSpec, LoraSpec, Source
from mochi_trainer.exports import uses
from mochi_trainer.exports.card import Artifact, Card, Use, render


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the run file does not say: found and measured while training."""

    clips: int
    """Clips that were trained with."""
    base_identity: str
    """Of the base's transformer, as in cache keys; empty when it is not known without reading every byte."""
    steps: int
    final_loss: float | None
    fixed_before: float | None
    """Loss of the fixed batch before the first step."""
    fixed_after: float | None
    skipped: int
    """Steps without a finite loss."""
    trained_parameters: int
    ranks: int
    device: str
    seconds: float
    """All steps together."""


def run_card(run: RunFile, facts: Facts, files: Sequence[Artifact]) -> str:
    """The card of what a run stored, Markdown."""
    lora = run.mode == "lora"
    kind = "LoRA for" if lora else "Full fine-tune of"
    clips = f"{facts.clips} clip{'' if facts.clips == 1 else 's'}"
    return render(
        Card(
            title=f"{run.run.name}: {kind} {run.model.preset}",
            summary=f"{kind} {run.model.preset}, {facts.steps} steps on {clips}.",
            preset=run.model.preset,
            relation="adapter" if lora else "finetune",
            tags=["lora"] if lora else [],
            uses=_uses(run, {file.name for file in files}),
            tables={
                "Base": _base(run, facts),
                "Dataset": _dataset(run, facts),
                "Settings": _settings(run),
                "Metrics": _metrics(facts),
            },
            files=files,
            reproduce=_reproduce(run),
        )
    )


def _uses(run: RunFile, names: set[str]) -> list[Use]:
    clip = run.preprocessing
    sampling = uses.Sampling(
        preset=run.model.preset,
        frames=clip.frames,
        width=clip.width,
        height=clip.height,
        fps=clip.fps,
        spec=run.sampling,
    )
    merged, weights, folder = (Path(key).name for key in (layout.MERGED, layout.WEIGHTS, layout.DIFFUSERS))
    if run.mode == "lora":
        targets = (run.training.lora or LoraSpec()).targets
        names_of = {"diffusers": Path(layout.LORA).name, "native": Path(layout.LORA_COMFYUI).name}
        found = uses.of_lora(sampling, targets, **names_of)
        if merged in names:
            text = f"`{merged}` is the base with this LoRA added to its weights: use it in place of the base's `dit.safetensors`, without the LoRA."
            found.append(Use(tool="Merged weights", text=text))
        return found
    found = uses.of_weights(sampling, weights)
    if run.training.ema is not None:
        found.append(_averaged(weights, Path(layout.UNAVERAGED).name, run.training.ema))
    return [uses.of_diffusers_folder(sampling, folder), *found]


def _averaged(weights: str, unaveraged: str, spec: EmaSpec) -> Use:
    return Use(
        tool="Averaged weights",
        text=f"`{weights}` is a moving average of the weights of all steps, with decay {spec.decay:f}; the losses of the fixed "
        f"batch are its own. `{unaveraged}` has the weights of the last step themselves, and is used in the same way.",
    )


def _base(run: RunFile, facts: Facts) -> dict[str, object]:
    source = run.model.source
    return {
        "preset": run.model.preset,
        "source": "weights in the trainer's package" if source is None else _address(source),
        "identity": facts.base_identity,
    }


def _dataset(run: RunFile, facts: Facts) -> dict[str, object]:
    return {
        "source": _address(run.dataset.source),
        "clips": facts.clips,
        "latents (cache key of the stage videos)": run.keys.videos,
        "captions (cache key of the stage captions)": run.keys.captions,
    }


def _address(source: Source) -> str:
    if source.s3 is not None:
        return source.s3.uri
    return "" if source.pvc is None else f"PersistentVolumeClaim {source.pvc.claim_name}, {source.pvc.path}"


def _settings(run: RunFile) -> dict[str, object]:
    """Every setting of the training and of its clips, by its name in the spec."""
    clip = run.preprocessing
    return {
        "mode": run.mode,
        **_flat("preprocessing", {name: getattr(clip, name) for name in ("frames", "width", "height", "fps")}),
        **({"preprocessing.buckets": [size.label for size in buckets(clip)[1:]]} if clip.buckets else {}),
        **_flat("training", run.training.to_wire()),
    }  # fmt: skip


def _flat(path: str, values: Mapping[str, object]) -> dict[str, object]:
    rows: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows |= _flat(f"{path}.{name}", value)
        else:
            rows[f"{path}.{name}"] = str(value).lower() if isinstance(value, bool) else value
    return rows


def _metrics(facts: Facts) -> dict[str, object]:
    return {
        "steps": facts.steps,
        "loss of the last step": _loss(facts.final_loss),
        "loss of the fixed batch, before": _loss(facts.fixed_before),
        "loss of the fixed batch, after": _loss(facts.fixed_after),
        "steps skipped (loss or gradient not finite)": facts.skipped,
        "trained parameters": f"{facts.trained_parameters:,}",
        "device": facts.device if facts.ranks == 1 else f"{facts.ranks} x {facts.device}",
        "duration of all steps": f"{facts.seconds:.1f} s",
    }


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _reproduce(run: RunFile) -> Use:
    """The run file lies beside the artifacts; several ranks find each other by the usual variables."""
    address = layout.join(run.locations.run, layout.RUN_FILE)
    ranks = run.world.replicas
    command = "python -m mochi_trainer train --run run.yaml"
    if ranks > 1:
        command = f"RANK=0 WORLD_SIZE={ranks} MASTER_ADDR=HOST MASTER_PORT=29500 {command}   # and so on to RANK={ranks - 1}"
    fetch = (
        f"aws s3 cp {shlex.quote(address)} run.yaml"
        if address.startswith("s3://")
        else f"cp {shlex.quote(address.removeprefix('file://'))} run.yaml"
    )
    return Use(
        tool="Reproduce",
        text="The run file has every setting that is no default, and the same seed draws the same numbers. Give "
        "`locations.run` in it another folder first: in the old one the command finds a run that is done.",
        code=f"{fetch}\n{command}",
    )
