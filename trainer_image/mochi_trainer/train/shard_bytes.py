"""The bytes of a safetensors file, piece by piece: those that the library writes for the same tensors, without a second copy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

PIECE_BYTES = 4 * 1024 * 1024
ALIGNMENT = 8

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def file_size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the whole file."""
    return len(_header(tensors)) + sum(map(_size, tensors.values()))


def file_pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The file from its start; views of what lies in host memory, which must not change meanwhile.

    Tensors are of floating point; one that lies elsewhere, or not in one piece, is copied when its turn comes.
    """
    yield _header(tensors)
    for name in _order(tensors):
        flat = tensors[name].detach().cpu().contiguous().view(-1)
        content = flat.view(torch.uint8).numpy().data
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    """Its own length, and JSON padded so that the first tensor is aligned."""
    described, start = {}, 0
    for name in _order(tensors):
        tensor = tensors[name]
        end = start + _size(tensor)
        described[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """The widest type first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
