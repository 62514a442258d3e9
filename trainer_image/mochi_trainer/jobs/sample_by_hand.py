"""The command sample without a run file: prompts, weights and LoRAs from the command line, videos into a folder."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from pydantic import ValidationError

from mochi_api.runfile import explain
from mochi_api.spec import S3Spec, SamplingSpec
from mochi_trainer import lora
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.exports.given_files import weighted
from mochi_trainer.flow import linear_quadratic_schedule
from mochi_trainer.jobs.attention_backend import sampling_backend
from mochi_trainer.jobs.sample import logged
from mochi_trainer.jobs.sampling import Moment, Settings, encoded_prompts, stored, videos
from mochi_trainer.lora.combination import Weighted, combined
from mochi_trainer.model import DiT
from mochi_trainer.model.attention_choice import use
from mochi_trainer.parallel.devices import compute_type, device_for
from mochi_trainer.presets.catalogue import SIZES, PresetName
from mochi_trainer.storage import require_folder
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.vae import latent_shape
from mochi_trainer.weights import check_parts, load_dit, open_source

FAST_STEPS = 8
FAST_THRESHOLD = 0.1
FAST_LINEAR_STEPS = 6
FAST_GUIDANCE = 1.5
THRESHOLD = 0.025
BAR = 30
"""Characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked for; None where nothing was said."""

    prompt: Sequence[str]
    prompts: Path | None
    """A file, one prompt a line."""
    preset: PresetName | None
    model: str | None
    """Address of the weights."""
    lora: Sequence[str]
    """Files, each with its weight after a colon or without."""
    seed: int | None
    steps: int | None
    guidance: float | None
    fast: bool
    frames: int | None
    width: int | None
    height: int | None
    fps: int | None
    out: Path


def sample(request: Request) -> None:
    """Make one video for each prompt; the same request makes the same bytes.

    Raises InvalidInputError for a value that cannot be used, MissingObjectError for a file that is not there, and what
    loading and the device raise.
    """
    texts, settings = _texts(request), _settings(request)
    adapters = [weighted(text)[1] for text in request.lora]
    require_folder(request.out, "--out")
    prompts = encoded_prompts(settings, texts)
    made = videos(lambda: _model(settings, adapters), prompts, settings, _progress(sys.stderr))
    store = LocalStore(request.out)
    with tempfile.TemporaryDirectory(prefix="mochi-sample-") as folder:
        for number, (text, frames) in enumerate(zip(texts, made, strict=True)):
            name, root = f"sample-{number:02d}", str(request.out)
            described = stored(frames, name, text, settings, store=store, root=root, folder=Path(folder))
            _tell(described, sys.stdout)


def _texts(request: Request) -> list[str]:
    texts = list(request.prompt)
    if request.prompts is not None:
        try:
            lines = request.prompts.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError as error:
            raise MissingObjectError(f"{request.prompts} does not exist") from error
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{request.prompts} cannot be read: {error}") from error
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InvalidInputError("there must be at least one prompt, got none: use --prompt or --prompts")
    if wrong := next(
        (text for text in texts if any("\ud800" <= letter <= "\udfff" for letter in text)), None
    ):
        raise InvalidInputError(f"a prompt must be text in UTF-8, got {wrong[:60]!r}")
    return texts


def _settings(request: Request) -> Settings:
    preset = request.preset or ("nano" if request.model is None else "mochi-1")
    frames, width, height, fps = SIZES[preset]
    fast = request.fast
    asked = _sampling(request)
    settings = Settings(
        preset=preset,
        source=None if request.model is None else open_source(request.model, _s3(os.environ)),
        device=device_for(int(preset != "nano" and torch.cuda.is_available())),
        frames=_first(request.frames, frames),
        width=_first(request.width, width),
        height=_first(request.height, height),
        fps=_first(request.fps, fps),
        seed=asked.seed,
        guidance=float(asked.guidance),
        sigmas=_sigmas(asked.steps, fast=fast),
    )
    _check(settings)
    if settings.source is not None:
        check_parts(settings.source, ["t5", "dit", "decoder"])
    return settings


def _sampling(request: Request) -> SamplingSpec:
    """What a run file would have: the same bounds hold. Raises InvalidInputError."""
    usual = {"steps": FAST_STEPS, "guidance": str(FAST_GUIDANCE)} if request.fast else {}
    asked = {
        "seed": request.seed,
        "steps": request.steps,
        "guidance": None if request.guidance is None else f"{request.guidance:.12g}",
    }
    try:
        return SamplingSpec.model_validate(
            {**usual, **{name: value for name, value in asked.items() if value is not None}}
        )
    except ValidationError as error:
        raise InvalidInputError(f"--{explain(error)}") from error


def _s3(environment: Mapping[str, str]) -> S3Spec:
    """How to reach S3, by the variables that the AWS tools read; credentials come from where these find them."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3", "") or environment.get("AWS_ENDPOINT_URL", "")
    region = environment.get("AWS_REGION", "") or environment.get("AWS_DEFAULT_REGION", "")
    given = {"region": region} if region else {}
    try:
        return S3Spec.model_validate({"endpoint": endpoint, "path_style": bool(endpoint), **given})
    except ValidationError as error:
        raise InvalidInputError(
            f"AWS_ENDPOINT_URL or AWS_REGION of the environment cannot be used: {error.errors()[0]['msg']}"
        ) from error


def _first(given: Any, usual: Any) -> Any:
    return usual if given is None else given


def _sigmas(steps: int, *, fast: bool) -> list[float]:
    try:
        if fast:
            return linear_quadratic_schedule(steps, FAST_THRESHOLD, FAST_LINEAR_STEPS)
        return linear_quadratic_schedule(steps, THRESHOLD)
    except ValueError as error:
        raise InvalidInputError(f"steps cannot be {steps}: {error}") from error


def _check(settings: Settings) -> None:
    """Refuse, before any weight is loaded, sizes that the model cannot make."""
    try:
        latent_shape(settings.frames, settings.height, settings.width)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    for name, value in (("width", settings.width), ("height", settings.height)):
        if value % 16:
            raise InvalidInputError(f"{name} must be a multiple of 16, got {value}")
    if settings.fps < 1:
        raise InvalidInputError(f"fps must be at least 1, got {settings.fps}")


def _model(settings: Settings, adapters: Sequence[Weighted]) -> DiT:
    device, dtype = settings.device, compute_type(settings.device)
    backend = sampling_backend(settings, dtype)  # needs memory of its own, so before the weights
    model = load_dit(settings.preset, settings.source, device=device, dtype=dtype)
    use(model, backend)
    if adapters:
        try:
            lora.attach_state(model, *combined(adapters))
        except ValueError as error:
            raise InvalidInputError(f"the LoRAs do not fit {settings.preset}: {error}") from error
    return model.eval()


def _progress(stream: TextIO) -> Callable[[Moment], None]:
    """A bar on a terminal, lines in the log elsewhere."""
    return _bar(stream) if stream.isatty() else logged()


def _bar(stream: TextIO) -> Callable[[Moment], None]:
    started = time.monotonic()

    def told(moment: Moment) -> None:
        done = (moment.video - 1) * moment.steps + moment.step
        share = done / (moment.videos * moment.steps)
        left = (time.monotonic() - started) * (1 - share) / share
        bar = ("#" * round(BAR * share)).ljust(BAR)
        video = f"video {moment.video} of {moment.videos}, step {moment.step} of {moment.steps}"
        stream.write(f"\r[{bar}] {share:4.0%} {video}, {left:.0f} s left  " + ("\n" if share == 1 else ""))
        stream.flush()

    return told


def _tell(described: dict[str, Any], stream: TextIO) -> None:
    """The two files of a video for a person, one JSON object elsewhere."""
    if stream.isatty():
        stream.write(f"{described['video']}  {described['sheet']}  {described['prompt']}\n")
    else:
        stream.write(json.dumps(described, ensure_ascii=False) + "\n")
    stream.flush()
