"""The page as a whole."""

from __future__ import annotations

from mochi_api.runfile import RunFile
from mochi_trainer.storage import Store


def render(store: Store, run: RunFile, cache: Store) -> str:
    """The report of the run whose folder is `store`, as one self-contained HTML document."""
    return f"<!doctype html><title>{run.run.name}</title>{store.address()}{cache.address()}"
