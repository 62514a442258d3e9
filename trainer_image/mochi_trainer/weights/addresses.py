"""From what a user writes to a place that holds a model: a folder, an S3 prefix, or a model in the local Hugging Face hub cache."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError, MissingObjectError
from mochi_trainer.storage import Store, open_store
from mochi_trainer.storage.local import LocalStore

Source = Path | Store
"""A folder, or any other store whose root is the model's folder."""

_HUB = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_REPOSITORY = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


def open_source(address: str, s3: S3Spec, hub_cache: Path | None = None) -> Source:
    """The place at `address`: a folder's path, `file:///folder`, `s3://bucket/prefix` or `hf://owner/name[@revision]`.

    `hf://` looks into the hub's cache on this machine (`hub_cache`, or what HF_HUB_CACHE and HF_HOME say) and never into
    the network. Raises MissingObjectError when the model is not in it, InvalidInputError for any other kind of address.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return Path(address)
    if scheme == "file" and rest.startswith("/"):
        return Path(unquote(rest, errors="surrogateescape"))
    if scheme == "s3":
        return open_store(address, s3)
    match = _HUB.fullmatch(rest) if scheme == "hf" else None
    if match is None:
        raise InvalidInputError(
            "an address must be a folder, file:///folder, s3://bucket/prefix or hf://owner/name[@revision], "
            f"got {address}"
        )
    return _cached(match[1], match[2], hub_cache)


def store_of(source: Source) -> Store:
    """The store whose root has the files; of a folder that is a hub cache, or a model in one, it is the snapshot.

    Raises InvalidInputError for a hub cache with several models.
    """
    return LocalStore(folder_of(source)) if isinstance(source, Path) else source


def folder_of(folder: Path) -> Path:
    """`folder` itself, or the snapshot in it when it is a hub cache or a model's folder in one. Raises as `store_of`."""
    if match := _REPOSITORY.fullmatch(folder.resolve().name):
        if (folder / "snapshots").is_dir():
            return _cached(f"{match[1]}/{match[2]}", None, folder.resolve().parent)
        return folder
    models = [path for path in folder.glob("models--*--*") if (path / "snapshots").is_dir()]
    if len(models) > 1:
        names = ", ".join(sorted(path.name for path in models))
        raise InvalidInputError(
            f"{folder} is a hub cache with several models, name one of its folders: {names}"
        )
    return folder_of(models[0]) if models else folder


def _cached(repository: str, revision: str | None, cache: Path | None) -> Path:
    from huggingface_hub import (  # comes with transformers; takes a second to import
        constants,
        snapshot_download,
    )
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    option = f" --revision {revision}" if revision else ""
    try:
        # No pattern fits any file: a snapshot with some of the files is enough when they are those that are needed.
        found = snapshot_download(
            repository, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns=[]
        )
    except LocalEntryNotFoundError as error:
        raise MissingObjectError(
            f"hf://{repository}{f'@{revision}' if revision else ''} is not in the hub cache "
            f"{cache or constants.HF_HUB_CACHE}; to get it: hf download {repository}{option}"
        ) from error
    except HFValidationError as error:
        raise InvalidInputError(f"hf://{repository} names no model: {error}") from error
    return Path(found)
