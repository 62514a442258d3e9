"""S3 through boto3: time limits, bounded retries, and errors that say whose move it is."""

from __future__ import annotations

import base64
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.loaders import Loader, create_loader

from mochi_api.spec import S3Spec
from mochi_trainer.errors import (
    AccessDeniedError,
    DiskFullError,
    MissingObjectError,
    StorageError,
    TrainerError,
    disk_full,
)
from mochi_trainer.movement import PROCESS
from mochi_trainer.storage.store import Digest, ObjectInfo

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef, ObjectIdentifierTypeDef

PART_BYTES = 8 * 1024 * 1024
PIECE_BYTES = 64 * 1024
"""Read at once from an answer: small, so that a slow server is seen to move."""
DELETE_AT_ONCE = 1000
"""Most keys one DeleteObjects request takes."""

_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_DENIED = {
    "403", "401", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "InvalidToken", "TokenRefreshRequired", "AllAccessDisabled", "AccountProblem", "UnauthorizedAccess",
    "XAdminUserNotFound",
}  # fmt: skip
_WRONG_REQUEST = {"InvalidBucketName", "PermanentRedirect", "301", "IllegalLocationConstraintException",
                  "AuthorizationHeaderMalformed"}  # fmt: skip
_EXISTS = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a server is waited for."""

    connect_seconds: float = 5
    read_seconds: float = 60
    """Longest silence while an answer is read."""
    attempts: int = 4


class Connection:
    """The client of one S3 server: made on first use, for any number of stores and threads."""

    def __init__(self, spec: S3Spec, patience: Patience | None = None) -> None:
        self.spec = spec
        self._patience = patience or Patience()
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        """Raises what boto3 raises when it cannot be made."""
        if self._client is None:
            self._client = _client(self.spec, self._patience)
        return self._client


class S3Store:
    """Keys below `s3://bucket/prefix/`."""

    def __init__(self, bucket: str, prefix: str, connection: Connection) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._connection = connection

    def address(self, key: str = "") -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def read_bytes(self, key: str) -> bytes:
        with self._errors(key):
            return _whole(self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"])

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"
        with self._errors(key):
            try:
                answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=span)
            except ClientError as error:
                if _code(error) in {"InvalidRange", "416"}:
                    return b""
                raise
            return _whole(answer["Body"])

    def get(self, key: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(key), tempfile.TemporaryDirectory(prefix=".partial-", dir=to.parent) as folder:
            partial = Path(folder) / "content"
            try:
                self._s3.download_file(
                    self._bucket,
                    self._prefix + key,
                    str(partial),
                    Callback=PROCESS.moved,
                    Config=_transfer(),
                )
            except ClientError as error:
                if _code(error) in _MISSING:
                    self._check_reachable(key)
                raise
            partial.replace(to)

    def put(self, source: Path, key: str) -> None:
        with self._errors(key), source.open("rb") as file:
            self._s3.upload_fileobj(
                file, self._bucket, self._prefix + key, Callback=PROCESS.moved, Config=_transfer()
            )

    def write_bytes(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)
        PROCESS.moved(len(data))

    def write_if_absent(self, key: str, data: bytes) -> bool:
        with self._errors(key):
            try:
                self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in _EXISTS:
                    return False
                raise
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        paginator = self._s3.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix))
        while True:
            with self._errors(prefix):
                page = next(pages, None)
            if page is None:
                return
            for found in page.get("Contents", []):
                key = found["Key"].removeprefix(self._prefix)
                if key and not key.endswith("/"):
                    yield ObjectInfo(
                        key, found["Size"], found["ETag"].strip('"'), found["LastModified"].timestamp()
                    )

    def head(self, key: str) -> ObjectInfo | None:
        with self._errors(key):
            try:
                found = self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    self._check_reachable(key)
                    return None
                raise
            return ObjectInfo(
                key, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp()
            )

    def exists(self, key: str) -> bool:
        return self.head(key) is not None

    def digest(self, key: str) -> Digest | None:
        with self._errors(key):
            try:
                found = self._s3.head_object(
                    Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED"
                )
            except ClientError as error:
                if _code(error) in _MISSING:
                    self._check_reachable(key)
                    return None
                raise
        return _digest(found)

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        while some := tuple(islice(rest, DELETE_AT_ONCE)):
            self._delete_some(some)

    def _delete_some(self, keys: Sequence[str]) -> None:
        named: Sequence[ObjectIdentifierTypeDef] = [{"Key": self._prefix + key} for key in keys]
        with self._errors(keys[0]):
            answer = self._s3.delete_objects(Bucket=self._bucket, Delete={"Objects": named, "Quiet": True})
        for failure in answer.get("Errors", []):
            key = failure.get("Key", "").removeprefix(self._prefix)
            raise self._translated(key, failure.get("Code", ""), failure.get("Message", ""))

    def _check_reachable(self, key: str) -> None:
        """The answer to HEAD has no body: 404 may also stand for an unknown bucket or user; a listing tells."""
        self._s3.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + key, MaxKeys=1)

    @property
    def _s3(self) -> S3Client:
        with self._errors(""):
            return self._connection.client

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except ClientError as error:
            details = error.response.get("Error", {})
            raise self._translated(key, _code(error), details.get("Message", "")) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise AccessDeniedError(
                f"{self.address(key)}: no S3 credentials found in {self._credentials()}"
            ) from error
        except (BotoCoreError, Boto3Error) as error:
            waited = f" (waited {time.monotonic() - started:.0f} s)" if _silent(error) else ""
            raise StorageError(
                f"{self.address(key)} at {self._endpoint()}: {_one_line(error)}{waited}"
            ) from error
        except OSError as error:
            if disk_full(error):
                raise DiskFullError(f"no space left on the local disk for {self.address(key)}") from error
            raise StorageError(f"{self.address(key)} at {self._endpoint()}: {error}") from error

    def _translated(self, key: str, code: str, message: str) -> TrainerError:
        address, said = self.address(key), f"{code}: {message}".rstrip(": ")
        if code == "NoSuchBucket":
            return MissingObjectError(
                f"bucket {self._bucket} of {address} does not exist at {self._endpoint()}"
            )
        if code in _MISSING:
            return MissingObjectError(f"{address} does not exist at {self._endpoint()}")
        if code in _WRONG_REQUEST:
            return MissingObjectError(
                f"{address} is not at {self._endpoint()}, region {self._connection.spec.region} ({said})"
            )
        if code in _DENIED:
            return AccessDeniedError(
                f"{address} refused with the credentials of {self._credentials()} ({said})"
            )
        return StorageError(f"{address} at {self._endpoint()}: {said}")

    def _endpoint(self) -> str:
        return self._connection.spec.endpoint or f"AWS S3 in {self._connection.spec.region}"

    def _credentials(self) -> str:
        name = self._connection.spec.credentials_secret_name
        return (
            f"Secret {name}" if name else "the pod's own identity (storage.s3.credentialsSecretName is empty)"
        )


def _client(spec: S3Spec, patience: Patience) -> S3Client:
    config = Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.read_seconds,
        retries={"mode": "standard", "total_max_attempts": patience.attempts},
        s3={"addressing_style": "path" if spec.path_style else "auto"},
        # Servers other than AWS often do not know the newer checksum trailers.
        request_checksum_calculation="when_required" if spec.endpoint else "when_supported",
        response_checksum_validation="when_required" if spec.endpoint else "when_supported",
    )
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    return boto3.session.Session(botocore_session=session).client(
        "s3", region_name=spec.region, endpoint_url=spec.endpoint or None, config=config
    )


@cache
def _loader() -> Loader:
    """The descriptions of the service, read once; credentials are looked up for each client."""
    return create_loader()


def _digest(found: HeadObjectOutputTypeDef) -> Digest | None:
    """The SHA-256 of the whole object, or the ETag where that is its MD5: one part, and no key of its own."""
    sha256, etag = found.get("ChecksumSHA256", ""), found["ETag"].strip('"')
    if sha256 and "-" not in sha256 and found.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        return Digest("sha256", base64.b64decode(sha256).hex(), "ChecksumSHA256 of the object")
    own_key = found.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in found
    if own_key or not re.fullmatch(r"[0-9a-f]{32}", etag):
        return None
    return Digest("md5", etag, "the ETag of the object")


def _transfer() -> TransferConfig:
    return TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)


def _whole(body: StreamingBody) -> bytes:
    """The content; botocore compares its length, and its checksum where there is one, at the end."""
    pieces = []
    while piece := body.read(PIECE_BYTES):
        pieces.append(piece)
        PROCESS.moved(len(piece))
    return b"".join(pieces)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _silent(error: Exception) -> bool:
    """Whether the server could not be reached, or did not answer to the end."""
    return isinstance(error, NoConnectionError | HTTPClientError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
