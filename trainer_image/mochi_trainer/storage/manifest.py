"""Manifests: a directory's objects with size and SHA-256, written last; without one the directory does not exist."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mochi_api import layout
from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError, StorageError
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.store import ObjectInfo, Piece, Pieces, Store

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Kind = TypeVar("Kind", bound=DataclassInstance)

VERSION = 1
HASHED_BYTES = 1 << 18
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

    at: str = ""
    """Key in the store, where that is not the name below the directory: the object is shared with other directories."""

    etag: str = ""
    """As the store named the content when it was written; empty where nobody asked."""


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

    def key(self, name: str) -> str:
        """Where an object of the directory lies in its store; a name that is not listed is one beside the manifest."""
        entry = self.entries.get(name)
        return _key(self.prefix, entry) if entry is not None else layout.join(self.prefix, name)


def put_entry(store: Store, prefix: str, source: Path, name: str) -> Entry:
    """Upload a file as `prefix/name`; return its line for the manifest."""
    entry = Entry(name=name, size=source.stat().st_size, sha256=file_sha256(source))
    store.put(source, layout.join(prefix, name))
    return entry


def put_pieces_entry(store: Store, prefix: str, pieces: Pieces, size: int, name: str) -> Entry:
    """As `put_entry`, of `size` bytes piece by piece, hashed on their way."""
    found = hashlib.sha256()

    def hashed() -> Iterator[Piece]:
        nonlocal found
        found = hashlib.sha256()
        for piece in pieces():
            found.update(piece)
            yield piece

    store.put_pieces(hashed, size, layout.join(prefix, name))
    return Entry(name=name, size=size, sha256=found.hexdigest())


def put_bytes_entry(store: Store, prefix: str, data: bytes, name: str) -> Entry:
    """As `put_entry`, from memory."""
    store.write_bytes(layout.join(prefix, name), data)
    return Entry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def get_entry(store: Store, manifest: Manifest, name: str, to: Path) -> None:
    """Download one object of a directory and check it.

    Raises MissingObjectError when the manifest does not list it or it is gone, DamagedObjectError when it is not what
    was written; `to` is absent then.
    """
    entry = _entry(store, manifest, name)
    store.get(manifest.key(name), to)
    try:
        _require(entry, file_sha256(to), store.address(manifest.key(name)))
    except DamagedObjectError:
        to.unlink()
        raise


def entry_bytes(store: Store, manifest: Manifest, name: str) -> bytes:
    """One object of a directory, checked; for those that are small. Raises as `get_entry`."""
    entry = _entry(store, manifest, name)
    data = store.read_bytes(manifest.key(name))
    _require(entry, hashlib.sha256(data).hexdigest(), store.address(manifest.key(name)))
    return data


def _entry(store: Store, manifest: Manifest, name: str) -> Entry:
    entry = manifest.entries.get(name)
    if entry is None:
        raise MissingObjectError(f"{store.address(manifest.key(name))} is not in the manifest beside it")
    return entry


def _require(entry: Entry, found: str, address: str) -> None:
    if found != entry.sha256:
        raise DamagedObjectError(
            f"{address} is not what its manifest lists: sha256 {found[:12]}..., "
            f"expected {entry.sha256[:12]}...; delete it to have it made anew"
        )


def write_manifest(
    store: Store, prefix: str, entries: Iterable[Entry], details: Mapping[str, Any] | None = None
) -> Manifest:
    """Write `prefix/manifest.json`: call it after everything it lists has been stored."""
    listed = {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}
    document: dict[str, Any] = {
        "version": VERSION,
        "entries": [_line(entry) for entry in listed.values()],
        "details": dict(details or {}),
    }
    data = json.dumps(document, ensure_ascii=False, indent=1).encode()
    store.write_bytes(layout.join(prefix, layout.MANIFEST), data)
    return Manifest(
        prefix=prefix, entries=listed, details=document["details"], sha256=hashlib.sha256(data).hexdigest()
    )


def read_list(store: Store, prefix: str) -> Manifest:
    """The manifest of a directory, whether or not what it lists is still there.

    Raises MissingObjectError when there is none, or it is damaged or of another version.
    """
    key = layout.join(prefix, layout.MANIFEST)
    return _parsed(store.read_bytes(key), prefix, store.address(key))


def read_manifest(store: Store, prefix: str, *, unaltered: bool = False) -> Manifest:
    """The manifest of a directory whose objects are all there with the listed sizes; `unaltered`: and ETags.

    Raises MissingObjectError when the manifest, or an object that it lists, is not there.
    """
    manifest = read_list(store, prefix)
    there = _listed(store, manifest)
    for entry in manifest.entries.values():
        fault = _fault(entry, there.get(_key(prefix, entry)), unaltered)
        if fault:
            raise MissingObjectError(f"{store.address(_key(prefix, entry))} {fault}")
    return manifest


def _key(prefix: str, entry: Entry) -> str:
    return entry.at or layout.join(prefix, entry.name)


def _line(entry: Entry) -> dict[str, Any]:
    """An entry as the document has it: without what it does not say, as earlier versions wrote it."""
    return {name: value for name, value in asdict(entry).items() if value != ""}


def _listed(store: Store, manifest: Manifest) -> dict[str, ObjectInfo]:
    """What lies in the folders of a manifest's objects."""
    own = [entry for entry in manifest.entries.values() if not entry.at]
    folders = {layout.join(manifest.prefix)} if own else set()
    folders |= {entry.at.rpartition("/")[0] for entry in manifest.entries.values() if entry.at}
    return {info.key: info for folder in sorted(folders) for info in store.list(f"{folder}/")}


def _fault(entry: Entry, found: ObjectInfo | None, unaltered: bool) -> str:
    """What is wrong with an object; empty when it is as it was written, as far as a listing tells."""
    if found is None:
        return f"is gone, its manifest lists {entry.size} bytes"
    if found.size != entry.size:
        return f"has {found.size} bytes, its manifest lists {entry.size} bytes"
    if unaltered and entry.etag and found.etag != entry.etag:
        return "was altered: it has another ETag than when its manifest was written"
    return ""


def find_manifest(store: Store, prefix: str, *, unaltered: bool = False) -> Manifest | None:
    """As `read_manifest`, but None when the directory is absent or incomplete."""
    try:
        return read_manifest(store, prefix, unaltered=unaltered)
    except MissingObjectError:
        return None


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    found = hashlib.sha256()
    buffer = memoryview(bytearray(HASHED_BYTES))
    with path.open("rb") as file:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
            PROCESS.moved(count)
    return found.hexdigest()


def known(kind: type[Kind], raw: Mapping[str, Any]) -> Kind:
    """A dataclass from what another version may have written: fields that this one does not know are ignored."""
    names = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in raw.items() if name in names})


def _entry_of(line: Mapping[str, Any]) -> Entry:
    entry = known(Entry, line)
    texts = (entry.name, entry.sha256, entry.at, entry.etag)
    if type(entry.size) is not int or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{line!r:.120} is no entry")
    return entry


def _parsed(data: bytes, prefix: str, address: str) -> Manifest:
    try:
        document = json_of(data)
        entries = [_entry_of(line) for line in document["entries"]]
        version, details = document["version"], dict(document["details"])
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
