"""T5 and its tokenizer as transformers wants them: folders on this machine, whole and as their source says."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mochi_trainer.errors import DiskFullError
from mochi_trainer.storage import Store
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.weights.addresses import Source, folder_of, store_of
from mochi_trainer.weights.checksums import check_whole, expected_digest
from mochi_trainer.weights.finding import text_folders, text_variant
from mochi_trainer.weights.stored import found, header_of, required

log = logging.getLogger(__name__)

GIB = 1 << 30


class TextFiles(NamedTuple):
    """Where T5 lies."""

    model: Path
    tokenizer: Path
    variant: str | None
    """The type in the names of the files, when there are no plain ones."""


@contextmanager
def text_files(source: Source) -> Iterator[TextFiles]:
    """The folders of T5 at `source`; what is not on this machine is downloaded for the length of the block.

    Raises MissingObjectError, WeightsError for a file that is not whole or differs from its checksum, DiskFullError before
    a download that cannot fit, and what the store raises.
    """
    if isinstance(source, Path):
        yield _checked(folder_of(source), store_of(source))
        return
    with tempfile.TemporaryDirectory(prefix="mochi-t5-") as name:
        _download(source, Path(name))
        yield _checked(Path(name), source)


def _download(store: Store, into: Path) -> None:
    folders = text_folders(store)
    files = [info for prefix in dict.fromkeys(folders) for info in store.list(prefix)]
    need, free = sum(info.size for info in files), shutil.disk_usage(into).free
    if need > free:
        raise DiskFullError(
            f"t5 at {store.address()} needs {need / GIB:.1f} GiB, {into} has {free / GIB:.1f} GiB free"
        )
    for info in files:
        log.info("downloading %s, %.1f GiB", store.address(info.key), info.size / GIB)
        store.get(info.key, into / info.key)


def _checked(root: Path, origin: Store) -> TextFiles:
    """The files below `root`, compared with what `origin`, where they come from, says about them."""
    folders = text_folders(origin)
    for info in origin.list(folders.model):
        original = found(origin, info.key)
        if original is None:
            continue
        copy = required(LocalStore(root), info.key)
        if info.key.endswith(".safetensors"):
            header_of(copy)
        if expected := expected_digest(original):
            check_whole(copy, expected)
            log.info("%s has the checksum of its source", original.name)
    return TextFiles(root / folders.model, root / folders.tokenizer, text_variant(origin, folders.model))
