"""One S3 bucket as the demo uses it: make it, fill it, read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class BucketError(Exception):
    """The bucket cannot be used; the message has its address and what S3 said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket on an S3 server, reached from this machine."""

    name: str
    endpoint: str
    """Such as `http://127.0.0.1:7070`; empty: AWS."""
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"

    def _client(self) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint or None,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                connect_timeout=5, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": "path" if self.endpoint else "auto"},
            ),
        )  # fmt: skip

    def _failed(self, what: str, error: Exception) -> BucketError:
        return BucketError(f"{what} in bucket {self.name} at {self.endpoint or 'AWS'}: {error}")

    def create(self) -> None:
        """Make the bucket unless it is there."""
        client = self._client()
        try:
            client.create_bucket(Bucket=self.name)
        except client.exceptions.BucketAlreadyOwnedByYou:
            return
        except (ClientError, BotoCoreError) as error:
            raise self._failed("cannot make the bucket", error) from error

    def put_file(self, source: Path, key: str) -> None:
        """Upload a file."""
        try:
            self._client().upload_file(str(source), self.name, key)
        except (ClientError, BotoCoreError) as error:
            raise self._failed(f"cannot upload {key}", error) from error

    def put_text(self, text: str, key: str) -> None:
        """Upload a text."""
        try:
            self._client().put_object(Bucket=self.name, Key=key, Body=text.encode())
        except (ClientError, BotoCoreError) as error:
            raise self._failed(f"cannot upload {key}", error) from error

    def keys(self, prefix: str) -> list[tuple[str, int]]:
        """Keys below `prefix` in their order, each with its size in bytes."""
        try:
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            return [(item["Key"], item["Size"]) for page in pages for item in page.get("Contents", [])]
        except (ClientError, BotoCoreError) as error:
            raise self._failed(f"cannot list {prefix}", error) from error

    def get_file(self, key: str, target: Path) -> None:
        """Download an object, with the folders it needs."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client().download_file(self.name, key, str(target))
        except (ClientError, BotoCoreError) as error:
            raise self._failed(f"cannot download {key}", error) from error

    def key_of(self, uri: str) -> str:
        """The key in an address of this bucket; raise BucketError for any other address."""
        parts = urlsplit(uri)
        if parts.scheme != "s3" or parts.netloc != self.name:
            raise BucketError(f"{uri} is not in bucket {self.name}")
        return uri.removeprefix(f"s3://{self.name}").lstrip("/")
