"""Manifests: a directory's objects with size and SHA-256, written last; without one the directory does not exist."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mochi_api import layout
from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.store import Store

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Kind = TypeVar("Kind", bound=DataclassInstance)

VERSION = 1
HASHED_BYTES = 4 * 1024 * 1024
"""Hashed at once."""


class DamagedObjectError(StorageError):
    """An object is not what was stored; asking again does not help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One object of a directory."""

    name: str
    """Key relative to the directory."""

    size: int
    """Bytes."""

    sha256: str
    """Hexadecimal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A complete directory."""

    prefix: str
    """The directory's key."""

    entries: Mapping[str, Entry]
    """By name."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """What the writer wants its readers to know; plain JSON."""

    sha256: str = ""
    """Of the manifest's own bytes."""


def put_entry(store: Store, prefix: str, source: Path, name: str) -> Entry:
    """Upload a file as `prefix/name`; return its line for the manifest."""
    entry = Entry(name=name, size=source.stat().st_size, sha256=file_sha256(source))
    store.put(source, layout.join(prefix, name))
    return entry


def put_bytes_entry(store: Store, prefix: str, data: bytes, name: str) -> Entry:
    """As `put_entry`, from memory."""
    store.write_bytes(layout.join(prefix, name), data)
    return Entry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def get_entry(store: Store, manifest: Manifest, name: str, to: Path) -> None:
    """Download one object of a directory and check it.

    Raises MissingObjectError when the manifest does not list it or it is gone, DamagedObjectError when it is not what
    was written; `to` is absent then.
    """
    key = layout.join(manifest.prefix, name)
    entry = manifest.entries.get(name)
    if entry is None:
        raise MissingObjectError(f"{store.address(key)} is not in the manifest beside it")
    store.get(key, to)
    found = file_sha256(to)
    if found != entry.sha256:
        to.unlink()
        raise DamagedObjectError(
            f"{store.address(key)} is not what its manifest lists: sha256 {found[:12]}..., "
            f"expected {entry.sha256[:12]}...; delete the directory to have it made anew"
        )


def write_manifest(
    store: Store, prefix: str, entries: Iterable[Entry], details: Mapping[str, Any] | None = None
) -> Manifest:
    """Write `prefix/manifest.json`: call it after everything it lists has been stored."""
    listed = {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}
    document: dict[str, Any] = {
        "version": VERSION,
        "entries": [{"name": e.name, "size": e.size, "sha256": e.sha256} for e in listed.values()],
        "details": dict(details or {}),
    }
    data = json.dumps(document, ensure_ascii=False, indent=1).encode()
    store.write_bytes(layout.join(prefix, layout.MANIFEST), data)
    return Manifest(
        prefix=prefix, entries=listed, details=document["details"], sha256=hashlib.sha256(data).hexdigest()
    )


def read_manifest(store: Store, prefix: str) -> Manifest:
    """The manifest of a directory whose objects are all there with the listed sizes.

    Raises MissingObjectError when the manifest, or an object that it lists, is not there.
    """
    key = layout.join(prefix, layout.MANIFEST)
    manifest = _parsed(store.read_bytes(key), prefix, store.address(key))
    sizes = {info.key: info.size for info in store.list(layout.join(prefix) + "/")}
    for entry in manifest.entries.values():
        size = sizes.get(layout.join(prefix, entry.name))
        if size != entry.size:
            found = "is gone" if size is None else f"has {size} bytes"
            raise MissingObjectError(
                f"{store.address(layout.join(prefix, entry.name))} {found}, its manifest lists {entry.size} bytes"
            )
    return manifest


def find_manifest(store: Store, prefix: str) -> Manifest | None:
    """As `read_manifest`, but None when the directory is absent or incomplete."""
    try:
        return read_manifest(store, prefix)
    except MissingObjectError:
        return None


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASHED_BYTES):
            found.update(piece)
            PROCESS.moved(len(piece))
    return found.hexdigest()


def known(kind: type[Kind], raw: Mapping[str, Any]) -> Kind:
    """A dataclass from what another version may have written: fields that this one does not know are ignored."""
    names = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in raw.items() if name in names})


def _parsed(data: bytes, prefix: str, address: str) -> Manifest:
    try:
        document = json.loads(data)
        entries = [known(Entry, line) for line in document["entries"]]
        version, details = document["version"], document["details"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingObjectError(f"{address} is not a manifest: {error}") from error
    if version != VERSION:
        raise MissingObjectError(f"{address} has version {version}, this program reads version {VERSION}")
    return Manifest(
        prefix=prefix,
        entries={entry.name: entry for entry in entries},
        details=details,
        sha256=hashlib.sha256(data).hexdigest(),
    )
