"""The command plan: what a training will need and how long it takes, from its file alone; needs no GPU, no torch, no storage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from mochi_api import identity, resolved, runfile
from mochi_api.prediction import flops
from mochi_api.prediction.admission import gibibytes
from mochi_api.prediction.fitting import copies_in_room, largest_policy, needed, once_in_room
from mochi_api.prediction.gpus import GPUS, Gpu
from mochi_api.prediction.memory import all_trained, memory
from mochi_api.prediction.policies import LEAST
from mochi_api.prediction.seconds import (
    step_seconds,
    traffic,
    traffic_between_copies,
    traffic_of_tokens,
    training_seconds,
)
from mochi_api.prediction.storage import storage
from mochi_api.prediction.work import Work, largest, works_of, works_of_run
from mochi_api.rules import violations
from mochi_api.spec import FineTuneSpec, TrainingSpec
from mochi_trainer.errors import InvalidInputError

MEMORY = {
    "weights": "weights",
    "moments": "moments of AdamW",
    "average": "moving average of the weights",
    "gradients": "gradients",
    "kept": "activations kept for the backward pass",
    "working": "the block at hand",
    "gathered": "weights and gradients between the ranks",
    "inputs": "the clip and its caption",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked."""

    file: Path
    """A run file, or a MochiFineTune as it is applied."""
    gpu: str
    """One product, or nothing for those that the file names first and then all others."""
    json: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    works: Sequence[Work]
    """For each size of the clips."""
    training: TrainingSpec
    products: Sequence[str]
    """Those that the file names."""

    @property
    def work(self) -> Work:
        """Where the clips are largest."""
        return largest(self.works)


def plan(request: Request) -> str:
    """The answer, as a table for people or as JSON. Raises InvalidInputError when the file or the product is none."""
    asked = _asked(request.file)
    products = [_product(request.gpu)] if request.gpu else [*(p for p in asked.products if p in GPUS), *GPUS]
    found = _numbers(asked, [GPUS[product] for product in dict.fromkeys(products)])
    return json.dumps(found, indent=2) + "\n" if request.json else "\n".join(_lines(asked, found)) + "\n"


def _product(name: str) -> str:
    """The product of this name, in whatever case it is written."""
    found = next((product for product in GPUS if product.casefold() == name.casefold()), None)
    if found is None:
        raise InvalidInputError(f"--gpu must be one of {', '.join(GPUS)}, got {name}")
    return found


def _asked(path: Path) -> _Asked:
    try:
        text = path.read_text(encoding="utf-8")
        raw = runfile.yaml_of(text)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidInputError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict) or raw.get("kind") != identity.KIND:
        run = runfile.parse(text)
        return _Asked(works_of_run(run), run.training, ())
    try:
        spec = FineTuneSpec.model_validate(raw.get("spec") or {}, extra="forbid")
    except ValidationError as error:
        raise InvalidInputError(f"{path}: {runfile.explain(error)}") from error
    if broken := violations(spec):
        raise InvalidInputError(f"{path}: {'; '.join(broken)}")
    return _Asked(works_of(spec), resolved.training(spec), spec.workers.gpu_products)


def _numbers(asked: _Asked, gpus: Sequence[Gpu]) -> dict[str, Any]:
    work, training = asked.work, asked.training
    merged = training.lora is not None and training.lora.export_merged
    best = resolved.usually_held_out(training) > 0
    return {
        "mode": work.mode,
        "gpus": work.world,
        "clipsPerGpu": work.share,
        **_sizes(asked),
        "tokens": {"visual": work.visual_tokens, "text": work.text_tokens},
        "parameters": {"all": work.network.parameters, "trained": all_trained(work)},
        "compiled": work.compiled,
        "flopsPerStep": {"least": flops.useful(work), "executed": flops.step(work, LEAST).total},
        "memoryBytes": {"needed": needed(work, LEAST), **asdict(memory(work, LEAST))},
        "storageBytes": asdict(
            storage(work, keep_last=training.checkpoint.keep_last, merged=merged, best=best)
        ),
        "trafficBytesPerStep": traffic(work),
        "tokenTrafficBytesPerStep": traffic_of_tokens(work),
        "products": [_on(asked, gpu) for gpu in gpus],
    }


def _sizes(asked: _Asked) -> dict[str, Any]:
    """The sizes of the clips, where there are several."""
    if len(asked.works) == 1:
        return {}
    return {"sizes": [f"{work.frames}x{work.width}x{work.height}" for work in asked.works]}


def _on(asked: _Asked, gpu: Gpu) -> dict[str, Any]:
    work, training = asked.work, asked.training
    found = {
        "product": gpu.product,
        "named": gpu.product in asked.products,
        "availableBytes": gpu.available,
        "fits": False,
    }
    work = replace(work, copies=copies_in_room(work, gpu.available))
    work = replace(work, synchronise_once=once_in_room(work, gpu.available))
    policy = largest_policy(work, gpu.available)
    if policy is None:
        return found
    step = fmean(step_seconds(each, policy, gpu) for each in asked.works)
    least = fmean(flops.useful(each) for each in asked.works)
    seconds = fmean(training_seconds(each, policy, gpu, training) for each in asked.works)
    return found | {
        "fits": True,
        "weightCopies": work.copies,
        "gradientsSynchronisedOnce": work.synchronise_once,
        "trafficBytesPerStep": traffic(work),
        "trafficBetweenPodsBytesPerStep": traffic_between_copies(work),
        "blocksLeftAlone": policy.left_alone,
        "neededBytes": needed(work, policy),
        "flopsPerStep": flops.step(work, policy).total,
        "secondsPerStep": round(step, 3),
        "seconds": round(seconds),
        "mfu": round(least / step / gpu.teraflops / 1e12, 3),
    }


def _lines(asked: _Asked, found: dict[str, Any]) -> Iterator[str]:
    work, training = asked.work, asked.training
    adapters = "" if work.full else f", rank {work.rank} on {', '.join(work.targets)}"
    tokens, parameters, executed = found["tokens"], found["parameters"], found["flopsPerStep"]
    yield (
        f"mode {work.mode}: {work.frames} frames of {work.width}x{work.height}, {tokens['visual']} visual and "
        f"{tokens['text']} text tokens{adapters}"
    )
    if sizes := found.get("sizes"):
        yield f"the largest of {len(sizes)} sizes ({work.place}); seconds are the mean of {', '.join(sizes)}, each as often"
    yield (
        f"{training.steps} steps; in each {work.share} {_plural('clip', work.share)} on each of {work.world} "
        f"{_plural('GPU', work.world)}{f', {work.context} of which share each clip' if work.context > 1 else ''}"
    )
    yield f"trained: {parameters['trained'] / 1e6:.1f} of {parameters['all'] / 1e6:.1f} million parameters"
    yield (
        f"a step of a GPU: {executed['executed'] / 1e15:.4g} PFLOP when all blocks but one are computed twice, their attention once; "
        f"{executed['least'] / 1e15:.4g} that the model asks for"
    )
    yield (
        "blocks are compiled where the compiler passes its check at start, which the seconds take for granted"
        if found["compiled"]
        else f"blocks are not compiled, since {work.swapped} of them wait in host memory; the seconds are of compiled ones"
    )
    if found["trafficBytesPerStep"]:
        yield f"each GPU receives {_gigabytes(found['trafficBytesPerStep'])} a step from the others"
    if work.context > 1:
        yield (
            f"each clip is shared by {work.context} GPUs of a pod, which receive at most "
            f"{_gigabytes(found['tokenTrafficBytesPerStep'])} a step each for that"
        )
    yield ""
    yield from _memory_lines(found["memoryBytes"])
    yield ""
    stored = found["storageBytes"]
    yield (
        f"{'a checkpoint':<42}{_gigabytes(stored['checkpoint']):>12}, at most {_kept(training)} at a "
        f"time: {_gigabytes(stored['checkpoints'])}"
    )
    yield f"{'the result, in all its forms':<42}{_gigabytes(stored['artifacts']):>12}"
    yield f"{'disk of a training pod, besides clips':<42}{_gigabytes(stored['disk']):>12}"
    yield f"{'host memory of a GPU for its checkpoint':<42}{_gigabytes(stored['copy']):>12}"
    if stored["swapped"]:
        yield f"{'host memory of a GPU for swapped blocks':<42}{_gigabytes(stored['swapped']):>12}"
    yield ""
    yield f"{'GPU':<32}{'GiB free':>9}{'blocks left alone':>19}{'s a step':>10}{'hours':>8}{'MFU':>7}"
    for row in found["products"]:
        yield _product_line(row, work.network.depth)
    yield (
        "* named by the file. Seconds are computed, not measured: 63 % of a GPU's speed in matrix products, 60 and 52 % in "
        "attention, 8 % on top for the rest, the traffic hidden."
    )


def _kept(training: TrainingSpec) -> int:
    """Checkpoints at a time: one is written before the oldest goes, and the best stays besides."""
    return training.checkpoint.keep_last + 1 + (resolved.usually_held_out(training) > 0)


def _memory_lines(found: dict[str, int]) -> Iterator[str]:
    yield f"{'memory that a GPU needs at least':<42}{gibibytes(found['needed']):>8} GiB"
    parts = {words: found[name] for name, words in MEMORY.items()}
    rest = found["needed"] - sum(parts.values())
    for words, count in {**parts, "lost between tensors, and NCCL's": rest}.items():
        if words == MEMORY["average"] and not count:
            continue
        yield f"  {words:<40}{gibibytes(count):>8} GiB"


def _product_line(row: dict[str, Any], depth: int) -> str:
    name = row["product"] + (" *" if row["named"] else "")
    start = f"{name:<32}{gibibytes(row['availableBytes']):>9}"
    if not row["fits"]:
        return f"{start}{'does not fit':>19}"
    alone = f"{row['blocksLeftAlone']} of {depth}"
    copies = row["weightCopies"]
    between = f"  {copies} copies, {_gigabytes(row['trafficBetweenPodsBytesPerStep'])} between pods"
    once = f"  gradients summed once a step, {_gigabytes(row['trafficBytesPerStep'])} received"
    return (
        f"{start}{alone:>19}{row['secondsPerStep']:>10.2f}{row['seconds'] / 3600:>8.1f}{row['mfu']:>7.0%}"
        f"{between if copies > 1 else ''}{once if row['gradientsSynchronisedOnce'] else ''}"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
