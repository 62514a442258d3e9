"""Load a part of a preset from a local folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import nn

from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import Preset, preset_named
from mochi_trainer.presets.weights import WeightsError, load_weights
from mochi_trainer.text import TextEncoder, byte_tokenizer, t5_tokenizer
from mochi_trainer.vae import Decoder, Encoder

if TYPE_CHECKING:
    from transformers import T5EncoderModel

Part = Literal["dit", "encoder", "decoder", "t5"]
PARTS: tuple[Part, ...] = ("dit", "encoder", "decoder", "t5")
"""The parts of a model: `<part>.safetensors` in its folder, or the folder `t5/`."""

M = TypeVar("M", bound=nn.Module)


def load_dit(
    preset: str,
    source: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DiT:
    """The transformer; `pos_frequencies` stays in float32. Raises `WeightsError`, `MissingObjectError`, `InvalidInputError`."""
    chosen = preset_named(preset)
    with torch.device("meta"):
        model = DiT(chosen.dit)
    return _loaded(model, chosen, source, "dit", device, dtype)


def load_encoder(
    preset: str,
    source: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Encoder:
    """The encoder of the autoencoder, frozen. Raises as `load_dit`."""
    chosen = preset_named(preset)
    with torch.device("meta"):
        model = Encoder(chosen.encoder)
    return _loaded(model, chosen, source, "encoder", device, dtype).requires_grad_(False)


def load_decoder(
    preset: str,
    source: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The decoder of the autoencoder, frozen. Raises as `load_dit`."""
    chosen = preset_named(preset)
    with torch.device("meta"):
        model = Decoder(chosen.decoder)
    return _loaded(model, chosen, source, "decoder", device, dtype).requires_grad_(False)


def load_text_encoder(
    preset: str,
    source: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TextEncoder:
    """The T5 encoder and its tokenizer, frozen. Use float32 or bfloat16: T5 XXL overflows in float16.

    Raises `WeightsError` when a tensor is missing, or as `load_dit`.
    """
    if dtype == torch.float16:
        raise InvalidInputError("dtype must be float32 or bfloat16, got float16, in which t5 overflows")
    chosen = preset_named(preset)
    folder = _folder(chosen, source) / "t5"
    if not (folder / "config.json").is_file():
        raise MissingObjectError(f"{folder / 'config.json'} does not exist")
    model = _t5(folder, dtype).to(device)  # type: ignore[arg-type]  # transformers declares a narrower `to`
    tokenizer = byte_tokenizer() if chosen.byte_tokens else t5_tokenizer(folder)
    return TextEncoder(model, tokenizer)


def _t5(folder: Path, dtype: torch.dtype) -> T5EncoderModel:
    from transformers import T5EncoderModel  # takes seconds to import, and only captions need it
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it would fill the pod's log
    loaded: Any = T5EncoderModel.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, output_loading_info=True
    )
    model: T5EncoderModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        raise WeightsError(f"t5 does not fit: {', '.join(missing[:5])} missing, {len(missing)} in all")
    return model


def identity(preset: str, source: Path | None = None, parts: Sequence[Part] = PARTS) -> str:
    """What a cache key says about the weights: preset, and 32 hex digits of the sha256 over all bytes of `parts`.

    Reads every byte (mochi-1: `encoder` 0.4 GB, `t5` 10 to 45 GB). Raises `MissingObjectError`, `InvalidInputError`.
    """
    folder = _folder(preset_named(preset), source)
    digest = hashlib.sha256()
    for part in parts:
        for path in _files(folder, part):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return f"{preset}-{digest.hexdigest()[:32]}"


def _files(folder: Path, part: Part) -> list[Path]:
    inside = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    files = inside if part == "t5" else [folder / f"{part}.safetensors"]
    if not files or not files[0].is_file():
        raise MissingObjectError(f"no {part} in {folder}")
    return files


def _folder(preset: Preset, source: Path | None) -> Path:
    folder = source or preset.packaged
    if folder is None:
        raise InvalidInputError(f"model.source is required: preset {preset.name} brings no weights")
    return folder


def _loaded(
    model: M, preset: Preset, source: Path | None, part: Part, device: torch.device | str, dtype: torch.dtype
) -> M:
    load_weights(model, _folder(preset, source) / f"{part}.safetensors", device=device, dtype=dtype)
    return model.eval()
