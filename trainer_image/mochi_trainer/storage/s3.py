"""S3 through boto3: every call tried again within a bounded time, whole answers only, errors that say whose move it is."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import ClientError

from mochi_trainer.errors import StorageError
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.s3_answers import as_asked, plain_etag
from mochi_trainer.storage.s3_calls import called
from mochi_trainer.storage.s3_connection import Connection
from mochi_trainer.storage.s3_faults import (
    BODILESS,
    EXISTS,
    MISSING,
    CutShortError,
    NotS3Error,
    code_of,
    knows_no_conditions,
)
from mochi_trainer.storage.s3_transfers import PIECE_BYTES, ChangedError, Download, upload, upload_pieces
from mochi_trainer.storage.store import Digest, ObjectInfo, Pieces, Unlisted

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
    )

READINGS = 3
"""Of an object that is replaced while it is read."""
DELETED_AT_ONCE = 16
"""Requests that delete, at the same time. One for each object needs neither a body nor a checksum, on which servers differ."""

T = TypeVar("T")


class S3Store:
    """Keys below `s3://bucket/prefix/`."""

    def __init__(self, bucket: str, prefix: str, connection: Connection) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._connection = connection

    def address(self, key: str = "") -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def read_bytes(self, key: str) -> bytes:
        def read(s3: S3Client) -> bytes:
            answer = s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
            if answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
                raise NotS3Error("a part (206) as the answer to a question for the whole")
            return _whole(answer)

        return self._called(key, read)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"

        def read(s3: S3Client) -> bytes:
            try:
                answer = s3.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=span)
            except ClientError as error:
                if code_of(error) in {"InvalidRange", "416"}:
                    return b""
                raise
            data = _whole(answer)
            if answer["ResponseMetadata"]["HTTPStatusCode"] == 200:  # a server that knows no ranges
                return data[start : start + length]
            as_asked(answer.get("ContentRange", ""), start)
            return _whole_range(data, answer.get("ContentRange", ""), length)

        return self._called(key, read)

    def get(self, key: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=to.parent) as folder:
            partial = Path(folder) / "content"
            for _ in range(READINGS):
                with suppress(ChangedError):
                    self._download(key).into(partial)
                    break
            else:
                raise StorageError(f"{self.address(key)} changes while it is read")
            partial.replace(to)

    def _download(self, key: str) -> Download:
        found = self._called(key, lambda s3: self._head(s3, key))
        return Download(
            bucket=self._bucket,
            key=self._prefix + key,
            size=found["ContentLength"],
            etag=plain_etag(found["ETag"]),
            called=lambda act: self._called(key, act),
        )

    def put(self, source: Path, key: str) -> None:
        self._called(key, lambda s3: upload(s3, source, self._bucket, self._prefix + key))

    def put_pieces(self, pieces: Pieces, size: int, key: str) -> None:
        self._called(key, lambda s3: upload_pieces(s3, pieces, size, self._bucket, self._prefix + key))

    def write_bytes(self, key: str, data: bytes) -> None:
        self._called(key, lambda s3: s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data))
        PROCESS.moved(len(data))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        tries = 0

        def write(s3: S3Client) -> bool:
            nonlocal tries
            tries += 1
            try:
                s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if knows_no_conditions(error):
                    return self._written_where_none_is(key, data)
                if code_of(error) not in EXISTS:
                    raise
                again = tries > 1 or error.response["ResponseMetadata"].get("RetryAttempts", 0)
                return bool(again) and self.read_bytes(key) == data  # an answer to an earlier try was lost
            return True

        return self._called(key, write)

    def _written_where_none_is(self, key: str, data: bytes) -> bool:
        """For a server that knows no conditions: between look and write another one may write too."""
        if self.exists(key):
            return False
        self.write_bytes(key, data)
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        token, before = "", set[str]()
        while True:
            page = self._page(prefix, token)
            for found in page.get("Contents", []):
                key = found["Key"].removeprefix(self._prefix)
                if key and not key.endswith("/"):
                    yield ObjectInfo(key, found["Size"], plain_etag(found["ETag"]), _modified(found))
            if not page.get("IsTruncated"):
                return
            before.add(token)
            token = page.get("NextContinuationToken", "")
            if token in before:
                raise StorageError(f"the listing of {self.address(prefix)} goes round in circles")

    def unlisted(self) -> Sequence[Unlisted]:
        return ()

    def head(self, key: str) -> ObjectInfo | None:
        found = self._found(key)
        if found is None:
            return None
        return ObjectInfo(key, found["ContentLength"], plain_etag(found["ETag"]), _modified(found))

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    def digest(self, key: str) -> Digest | None:
        found = self._found(key)
        return None if found is None else _digest(found)

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        with ThreadPoolExecutor(DELETED_AT_ONCE, thread_name_prefix="deletion") as pool:
            while some := tuple(islice(rest, DELETED_AT_ONCE)):
                for _ in pool.map(self._delete, some):
                    PROCESS.moved()

    def _delete(self, key: str) -> None:
        self._called(key, lambda s3: s3.delete_object(Bucket=self._bucket, Key=self._prefix + key))

    def _page(self, prefix: str, token: str) -> ListObjectsV2OutputTypeDef:
        further = {"ContinuationToken": token} if token else {}

        def ask(s3: S3Client) -> ListObjectsV2OutputTypeDef:
            page = s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **further)  # type: ignore[arg-type]  # one optional argument
            for found in page.get("Contents", ()):
                if not found["Key"].startswith(self._prefix + prefix):
                    raise NotS3Error(f"{found['Key']!r} in the listing of {self._prefix + prefix}")
            return page

        return self._called(prefix, ask)

    def _found(self, key: str) -> HeadObjectOutputTypeDef | None:
        def ask(s3: S3Client) -> HeadObjectOutputTypeDef | None:
            try:
                return self._head(s3, key)
            except ClientError as error:
                if error.operation_name == "HeadObject" and code_of(error) in MISSING:
                    return None
                raise

        return self._called(key, ask)

    def _head(self, s3: S3Client, key: str) -> HeadObjectOutputTypeDef:
        """The answer to HEAD has no body, so 404 may also stand for an unknown bucket, 400 for keys that have expired; a listing tells."""
        try:
            return s3.head_object(Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED")
        except ClientError as error:
            if code_of(error) in BODILESS:
                s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + key, MaxKeys=1)
            raise

    def _called(self, key: str, act: Callable[[S3Client], T]) -> T:
        return called(self._connection, self.address(key), self._bucket, act)


def _modified(found: Mapping[str, Any]) -> float:
    when = found.get("LastModified")
    return when.timestamp() if isinstance(when, datetime) else 0.0


def _whole_range(data: bytes, content_range: str, length: int) -> bytes:
    """`data`, unless it is not as long as the range that was asked for, or the rest of the object."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
    wanted = min(length, int(match[2]) - int(match[1])) if match else len(data)
    if len(data) < wanted:
        raise CutShortError(f"{len(data)} bytes came of {wanted}")
    return data[:length]


def _digest(found: HeadObjectOutputTypeDef) -> Digest | None:
    """The SHA-256 of the whole object, or the ETag where that is its MD5: one part, and no key of its own."""
    sha256, etag = found.get("ChecksumSHA256", ""), plain_etag(found["ETag"])
    if sha256 and "-" not in sha256 and found.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        return Digest("sha256", base64.b64decode(sha256).hex(), "ChecksumSHA256 of the object")
    own_key = found.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in found
    if own_key or not re.fullmatch(r"[0-9a-f]{32}", etag):
        return None
    return Digest("md5", etag, "the ETag of the object")


def _whole(answer: GetObjectOutputTypeDef) -> bytes:
    """The content; botocore compares its length, and its checksum where there is one, at the end."""
    pieces = []
    with closing(answer["Body"]) as body:
        while piece := body.read(PIECE_BYTES):
            pieces.append(piece)
            PROCESS.moved(len(piece))
    return b"".join(pieces)
