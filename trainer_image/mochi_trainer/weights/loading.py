"""Load a part of a preset from wherever its files are: a folder, S3, or a hub cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from mochi_trainer.errors import InvalidInputError
from mochi_trainer.model import DiT
from mochi_trainer.presets.catalogue import Preset, preset_named
from mochi_trainer.storage import ObjectInfo, Store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.storage.manifest import file_sha256
from mochi_trainer.text import TextEncoder, Tokenizer, byte_tokenizer, t5_tokenizer
from mochi_trainer.vae import Decoder, Encoder
from mochi_trainer.weights.addresses import Source, folder_of, store_of
from mochi_trainer.weights.contents import contents
from mochi_trainer.weights.filling import Kept, fill
from mochi_trainer.weights.finding import PARTS, FilePart, Part, PartFiles, part_files, text_folders
from mochi_trainer.weights.forms import shapes_of
from mochi_trainer.weights.stored import WeightsError, local
from mochi_trainer.weights.text_files import TextFiles, text_files
from mochi_trainer.weights.writing import kept_type

if TYPE_CHECKING:
    from transformers import T5EncoderModel

M = TypeVar("M", bound=nn.Module)


def load_dit(
    preset: str | Preset,
    source: Source | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DiT:
    """The transformer; `pos_frequencies` stays in float32.

    `preset` is a name, or sizes of your own. `source` has the published files or those of Diffusers. Tensors go to `device` piece by piece in the type `dtype`.
    Raises `WeightsError`, which names the file and the tensor, `MissingObjectError`, `InvalidInputError`, and what the
    store raises.
    """
    chosen = _chosen(preset)
    return _loaded(meta_dit(preset), chosen, source, "dit", device, dtype)


def meta_dit(preset: str | Preset) -> DiT:
    """The transformer without memory: names and shapes only, to be sharded and then filled with `fill_dit`."""
    with torch.device("meta"):
        return DiT(_chosen(preset).dit).eval()


def fill_dit(preset: str | Preset, source: Source | None, rows: Mapping[str, tuple[Tensor, int]]) -> None:
    """Give the transformer's tensors on this rank their numbers; only these are read.

    `rows` has, by published name, the rows of each tensor that this rank keeps and the number of the first one. Raises as
    `load_dit`.
    """
    chosen = _chosen(preset)
    shapes = shapes_of(meta_dit(preset).state_dict())
    files = part_files(store_of(_place(chosen, source)), "dit")
    kept = {name: Kept(tensor, first) for name, (tensor, first) in rows.items()}
    fill(kept, contents(files, shapes, chosen), "dit")


def load_encoder(
    preset: str | Preset,
    source: Source | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Encoder:
    """The encoder of the autoencoder, frozen. Raises as `load_dit`."""
    chosen = _chosen(preset)
    with torch.device("meta"):
        model = Encoder(chosen.encoder)
    return _loaded(model, chosen, source, "encoder", device, dtype).requires_grad_(False)


def load_decoder(
    preset: str | Preset,
    source: Source | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """The decoder of the autoencoder, frozen. Raises as `load_dit`."""
    chosen = _chosen(preset)
    with torch.device("meta"):
        model = Decoder(chosen.decoder)
    return _loaded(model, chosen, source, "decoder", device, dtype).requires_grad_(False)


def load_text_encoder(
    preset: str | Preset,
    source: Source | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TextEncoder:
    """The T5 encoder and its tokenizer, frozen. Use float32 or bfloat16: T5 XXL overflows in float16.

    They lie in `t5/`, or in `text_encoder/` and `tokenizer/`; what is in S3 is downloaded and removed again. Raises
    `WeightsError` when a tensor is missing, `DiskFullError` before a download that cannot fit, or as `load_dit`.
    """
    if dtype == torch.float16:
        raise InvalidInputError("dtype must be float32 or bfloat16, got float16, in which t5 overflows")
    chosen = _chosen(preset)
    with text_files(_place(chosen, source)) as files:
        model = _t5(files, dtype).to(device)  # type: ignore[arg-type]  # transformers declares a narrower `to`
        tokenizer = byte_tokenizer() if chosen.byte_tokens else _tokenizer(files)
    return TextEncoder(model, tokenizer)


def _t5(files: TextFiles, dtype: torch.dtype) -> T5EncoderModel:
    from transformers import T5EncoderModel  # takes seconds to import, and only captions need it
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it would fill the pod's log
    try:
        loaded: Any = T5EncoderModel.from_pretrained(
            str(files.model),
            dtype=dtype,
            variant=files.variant,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise WeightsError(f"t5 in {files.model} cannot be loaded: {' '.join(str(error).split())}") from error
    model: T5EncoderModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        raise WeightsError(f"t5 does not fit: {', '.join(missing[:5])} missing, {len(missing)} in all")
    return model


def _tokenizer(files: TextFiles) -> Tokenizer:
    try:
        return t5_tokenizer(files.tokenizer)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"t5's tokenizer in {files.tokenizer} cannot be loaded: {' '.join(str(error).split())}"
        ) from error


def load_weights(module: nn.Module, path: Path, *, device: torch.device | str, dtype: torch.dtype) -> None:
    """Replace the parameters of `module` (which may be on the meta device) by those of a file with its names, strictly.

    Raises `WeightsError` for a missing, extra, wrongly shaped or unreadable tensor, `MissingObjectError` for no file.
    """
    files = PartFiles("dit", "published", (local(path),))
    _replace(module, files, None, path.name, device, dtype)


def _loaded(
    model: M,
    preset: Preset,
    source: Source | None,
    part: FilePart,
    device: torch.device | str,
    dtype: torch.dtype,
) -> M:
    files = part_files(store_of(_place(preset, source)), part)
    _replace(model, files, preset, part, device, dtype)
    return model.eval()


def _replace(
    module: nn.Module,
    files: PartFiles,
    preset: Preset | None,
    what: str,
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    shapes = shapes_of(module.state_dict())
    fitting = contents(files, shapes, preset)
    state = {
        name: torch.empty(shape, dtype=kept_type(name, dtype), device=device)
        for name, shape in shapes.items()
    }
    fill({name: Kept(tensor) for name, tensor in state.items()}, fitting, what)
    module.load_state_dict(state, strict=True, assign=True)


def check_parts(source: Source, parts: Sequence[Part]) -> None:
    """Raise MissingObjectError when one of `parts` is not at `source`, before time is spent on the others."""
    store = store_of(source)
    for part in parts:
        if part == "t5":
            text_folders(store)
        else:
            part_files(store, part)


def identity(preset: str, source: Source | None = None, parts: Sequence[Part] = PARTS) -> str:
    """What a cache key says about the weights: preset, and 32 hex digits over the files of `parts`.

    Of a folder it is the sha256 of every byte (mochi-1: `encoder` 0.4 GB, `t5` 10 to 45 GB), of another store names, sizes
    and ETags. Raises `MissingObjectError`, `InvalidInputError`, and what the store raises.
    """
    place = _place(preset_named(preset), source)
    store = store_of(place)
    digest = hashlib.sha256()
    for part in parts:
        for info in _files(store, part):
            line = f"{info.key} {info.size} {info.etag}"
            if isinstance(place, Path):
                line = f"{info.key} {file_sha256(folder_of(place) / info.key)}"
            digest.update(f"{line}\n".encode())
    return f"{preset}-{digest.hexdigest()[:32]}"


def _files(store: Store, part: Part) -> Iterator[ObjectInfo]:
    """The files of a part in an order that does not change."""
    if part != "t5":
        files = part_files(store, part)
        for file in (files.index, *files.files):
            if file is not None:
                yield ObjectInfo(file.key, file.size, file.etag)
        return
    for prefix in dict.fromkeys(text_folders(store)):
        listed = list(store.list(prefix))
        yield from sorted(listed, key=_path) if isinstance(store, LocalStore) else listed


def _path(info: ObjectInfo) -> Path:
    return Path(info.key)


def _chosen(preset: str | Preset) -> Preset:
    return preset_named(preset) if isinstance(preset, str) else preset


def _place(preset: Preset, source: Source | None) -> Source:
    place = source or preset.packaged
    if place is None:
        raise InvalidInputError(f"model.source is required: preset {preset.name} brings no weights")
    return place
