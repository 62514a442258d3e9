"""A LoRA in a store: which object it is, and what peft keeps beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from mochi_trainer.lora.files import config_of
from mochi_trainer.lora.folders import lora_in
from mochi_trainer.lora.importing import CONFIG, NOTHING, config_wanted
from mochi_trainer.storage import Store

LISTED = 1000
"""As many objects of a folder are looked at."""


def lora_key(store: Store, name: str) -> str:
    """`name`, or, when it is empty, that of the one LoRA directly below the root of `store`.

    Raises ValueError when there is none or when there are several, and what the store raises.
    """
    return name or lora_in(_files(store), store.address())


def _files(store: Store) -> Iterator[str]:
    return (info.key for info in islice(store.list(), LISTED) if "/" not in info.key)


def stored_config(store: Store, name: str, tensors: Collection[str]) -> Mapping[str, Any]:
    """What peft's configuration beside the file `name` with these tensors says; empty where it keeps none.

    Raises ValueError when it cannot be read, and what the store raises.
    """
    if not config_wanted(name, tensors) or not store.exists(CONFIG):
        return NOTHING
    return config_of(store.read_bytes(CONFIG))
