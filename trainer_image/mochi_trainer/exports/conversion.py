"""Files of the transformer made from other files, tensor by tensor: merged, for Diffusers, and back.

The host never holds more than one published tensor and its parts, whatever the size of the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mochi_trainer.lora import LoraParams
from mochi_trainer.lora.merging import changes, merged
from mochi_trainer.model import DiTParams
from mochi_trainer.weights import WeightsError
from mochi_trainer.weights.diffusers_folder import CONFIG, INDEX, SHARD_BYTES, config, index, shards
from mochi_trainer.weights.diffusers_layout import dit_pieces, put_together, taken_apart
from mochi_trainer.weights.stored import TYPES
from mochi_trainer.weights.writing import Planned, write


class Opened:
    """The tensors of one or several open safetensors files, read one at a time."""

    def __init__(self, files: Sequence[Any]) -> None:
        self._files = {name: file for file in files for name in file.offset_keys()}
        self.metadata: Mapping[str, str] = files[0].metadata() or {}
        """Of the first file."""

    @property
    def names(self) -> list[str]:
        """In the order of their bytes."""
        return list(self._files)

    def planned(self, name: str) -> Planned:
        """Shape and type; raise WeightsError when it is absent or its numbers are no plain floating-point numbers."""
        if name not in self._files:
            raise WeightsError(f"{name} is missing")
        found = self._files[name].get_slice(name)
        if found.get_dtype() not in TYPES:
            raise WeightsError(
                f"{name} must have one of the types {', '.join(TYPES)}, got {found.get_dtype()}"
            )
        return Planned(tuple(found.get_shape()), TYPES[found.get_dtype()])

    def read(self, name: str) -> Tensor:
        """One tensor, whole, on the CPU."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


@contextmanager
def opened(*paths: Path) -> Iterator[Opened]:
    """The tensors of these files for the length of the block; raises WeightsError when one is not whole."""
    with ExitStack() as stack:
        try:
            yield Opened([stack.enter_context(safe_open(path, framework="pt")) for path in paths])
        except SafetensorError as error:
            names = ", ".join(path.name for path in paths)
            raise WeightsError(f"{names} cannot be read as safetensors: {error}") from error


def write_merged(
    base: Sequence[Path],
    state: Mapping[str, Tensor],
    params: LoraParams,
    out: Path,
    metadata: Mapping[str, str],
) -> None:
    """Write the transformer in the files `base` (published names) with an adapter added to its weights.

    Each changed weight is added in float32 and rounded once to its own type; all other tensors keep every byte. Raises
    ValueError when the adapter does not belong to this base, WeightsError when the base cannot be read.
    """
    adapters = changes(state, params)
    with opened(*base) as source:
        plan = {name: source.planned(name) for name in source.names}
        if absent := [name for name in adapters if name not in plan]:
            raise ValueError(f"it changes {absent[0]}, which {base[0].name} does not have")
        tensors = (
            merged(name, source.read(name), adapters[name]) if name in adapters else source.read(name)
            for name in plan
        )
        write(out, plan, tensors, metadata)


def write_diffusers_folder(
    source: Path,
    params: DiTParams,
    into: Path,
    metadata: Mapping[str, str],
    *,
    limit: int = SHARD_BYTES,
) -> Iterator[Path]:
    """Write the transformer at `source` (published names) as a folder for `MochiTransformer3DModel.from_pretrained`.

    Yields each file when it is whole, so that the caller may take it away before the next one is written. Types stay as
    they are. Files have at most `limit` bytes of tensors, but for a tensor that is larger. Raises ValueError when
    Diffusers cannot hold these sizes, WeightsError when the source cannot be read.
    """
    settings = config(params)
    into.mkdir(parents=True, exist_ok=True)
    with opened(source) as tensors:
        plan = {
            part: planned for name in tensors.names for part, planned in _parts(tensors, name, params.depth)
        }
        sizes = {name: planned.size for name, planned in plan.items()}
        files = shards(sizes, limit)
        stream = (
            part
            for name in tensors.names
            for part in taken_apart(tensors.read(name), dit_pieces(name, params.depth)).values()
        )
        for shard in files:
            path = into / shard.file
            write(
                path, {name: plan[name] for name in shard.names}, islice(stream, len(shard.names)), metadata
            )
            yield path
    if len(files) > 1:
        yield _text(into / INDEX, index(sizes, files))
    yield _text(into / CONFIG, json.dumps(settings, indent=2) + "\n")


def _parts(tensors: Opened, name: str, depth: int) -> Iterator[tuple[str, Planned]]:
    try:
        names = dit_pieces(name, depth).names
    except KeyError as error:
        raise WeightsError(f"{name} is no tensor of the transformer") from error
    (rows, *rest), dtype = tensors.planned(name)
    for part in names:
        yield part, Planned((rows // len(names), *rest), dtype)


def _text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_published(
    sources: Sequence[Path], names: Iterable[str], params: DiTParams, out: Path, metadata: Mapping[str, str]
) -> None:
    """Write the transformer in the files of Diffusers at `sources` under its published `names`, bit for bit.

    The inverse of `write_diffusers_folder`. Raises WeightsError when a tensor is missing, or when the parts of one tensor
    have different types.
    """
    with opened(*sources) as tensors:
        of = {name: dit_pieces(name, params.depth) for name in names}
        plan = {name: _whole([tensors.planned(part) for part in of[name].names], name) for name in of}
        stream = (
            put_together([tensors.read(part) for part in pieces.names], pieces) for pieces in of.values()
        )
        write(out, plan, stream, metadata)


def _whole(parts: Sequence[Planned], name: str) -> Planned:
    if len({part.dtype for part in parts}) > 1:
        raise WeightsError(f"the parts of {name} must have one type, got {[str(p.dtype) for p in parts]}")
    return Planned((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), parts[0].dtype)
