"""Files that Python's pickle wrote: how they are known, and what turns one into a file of safetensors."""

from __future__ import annotations

import shlex

BEGINNINGS = {b"PK\x03\x04": "a zip archive, as torch.save writes it", b"\x80": "a pickle"}
"""First bytes, and what has them."""

_CONVERSION = (
    "import sys, torch, safetensors.torch as s; _, old, new = sys.argv; "
    's.save_file({k: v.clone() for k, v in torch.load(old, "cpu", weights_only=True).items()}, new)'
)
"""With `weights_only` torch refuses a pickle that holds more than tensors."""


def conversion(name: str) -> str:
    """The command that makes a file of safetensors of the pickle `name`, and why it is not opened here."""
    to = f"{name.rpartition('.')[0] or name}.safetensors"
    return (
        "a pickle can run code when it is opened, so it is not read here; convert it where nothing can be harmed: "
        f"python -c '{_CONVERSION}' {shlex.join([name, to])}"
    )
