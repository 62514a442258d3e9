"""A folder that is named where a LoRA file is wanted: which of its files that is."""

from __future__ import annotations

from collections.abc import Iterable

from mochi_trainer.lora.names import PEFT_FILE

SHOWN = 6
"""As many names of a folder are told."""


def lora_in(names: Iterable[str], folder: str) -> str:
    """The one of `names`, the files of `folder`, that is its LoRA: peft's, else the only one of safetensors.

    Raises ValueError, with what is in the folder, when there is none or when there are several.
    """
    files = sorted(names)
    found = [name for name in files if name.endswith(".safetensors")]
    if PEFT_FILE in found:
        return PEFT_FILE
    if len(found) > 1:
        raise ValueError(
            f"{folder} is a folder with {len(found)} files of safetensors, name one: {_some(found)}"
        )
    if not found:
        raise ValueError(
            f"{folder} is a folder without a file of safetensors; it has {_some(files) or 'no files'}"
        )
    return found[0]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
