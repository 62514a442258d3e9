"""From an address to a store."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.storage.local import LocalStore
from mochi_trainer.storage.s3_connection import Connection
from mochi_trainer.storage.store import Store


def address_by_hand(text: str) -> str:
    """The address that a person means by `text`: a folder of this machine, unless it is one already.

    What has a meaning in addresses is written out, such as `%`, and bytes that are no UTF-8.
    """
    return text.rstrip("/") if "://" in text else f"file://{quote(os.fsencode(Path(text).absolute()))}"


def open_store(uri: str, s3: S3Spec, connection: Connection | None = None) -> Store:
    """The store rooted at `uri` (`s3://bucket/prefix` or `file:///folder`); no request is made yet.

    `connection` is shared with other stores on the server that `s3` names; without it the store has its own.
    Raises InvalidInputError for any other kind of address.
    """
    scheme, found, rest = uri.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return LocalStore(Path(unquote(rest, errors="surrogateescape")))
    if scheme == "s3" and found:
        bucket, _, prefix = rest.partition("/")
        if bucket:
            from mochi_trainer.storage.s3 import S3Store  # and boto3, which folders do without

            return S3Store(bucket, prefix, connection or Connection(s3))
    raise InvalidInputError(f"an address must start with s3://bucket or file:///folder, got {uri}")
