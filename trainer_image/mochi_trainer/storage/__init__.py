"""Where bytes come from and go to: the `Store` protocol, S3, a local directory, and manifests."""

from mochi_trainer.storage.fence import Fence, FencedStore
from mochi_trainer.storage.manifest import (
    DamagedObjectError,
    Entry,
    Manifest,
    entry_bytes,
    file_sha256,
    find_manifest,
    get_entry,
    known,
    put_bytes_entry,
    put_entry,
    put_pieces_entry,
    read_list,
    read_manifest,
    write_manifest,
)
from mochi_trainer.storage.opening import address_by_hand, open_store
from mochi_trainer.storage.s3_connection import Connection, Patience
from mochi_trainer.storage.s3_counts import counts
from mochi_trainer.storage.space import require_folder, require_space
from mochi_trainer.storage.store import Digest, ObjectInfo, Piece, Pieces, Store

__all__ = [
    "Connection",
    "DamagedObjectError",
    "Digest",
    "Entry",
    "Fence",
    "FencedStore",
    "Manifest",
    "ObjectInfo",
    "Patience",
    "Piece",
    "Pieces",
    "Store",
    "address_by_hand",
    "counts",
    "entry_bytes",
    "file_sha256",
    "find_manifest",
    "get_entry",
    "known",
    "open_store",
    "put_bytes_entry",
    "put_entry",
    "put_pieces_entry",
    "read_list",
    "read_manifest",
    "require_folder",
    "require_space",
    "write_manifest",
]
