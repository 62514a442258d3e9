"""What an S3 server says when it has done what it was asked for: an answer without that comes from something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mochi_trainer.storage.s3_faults import NotS3Error

if TYPE_CHECKING:
    from botocore.awsrequest import AWSResponse
    from botocore.model import OperationModel

_SAID: Mapping[str, tuple[str, ...]] = {
    "GetObject": ("ETag",),
    "HeadObject": ("ETag", "ContentLength"),
    "PutObject": ("ETag",),
    "CreateMultipartUpload": ("UploadId",),
    "UploadPart": ("ETag",),
    "CompleteMultipartUpload": ("ETag",),
}
"""Parts of the answer to each operation, as botocore names them, that every S3 server gives."""
_OF_OBJECT = ("Key", "Size", "ETag")
"""Parts of each object in a listing."""
_LISTING = {"KeyCount", "IsTruncated", "Name", "Contents"}
"""A listing has one of them at least."""
_NO_BODY = {"PutObject", "UploadPart", "DeleteObject", "AbortMultipartUpload"}
"""Operations that are answered without a body: a page in its place is none of S3."""


def checked(http_response: AWSResponse, parsed: Mapping[str, Any], model: OperationModel, **_: Any) -> None:
    """Raise NotS3Error for a success that S3 does not tell so; for botocore's event `after-call`.

    The page of a proxy or a portal comes with 200 too, and what it was sent is nowhere.
    """
    if http_response.status_code >= 300:
        return
    odd = _odd(model.name, parsed)
    if odd:
        if "Body" in parsed:
            parsed["Body"].close()
        raise NotS3Error(odd)


def plain_etag(said: str) -> str:
    """An ETag without what it is wrapped in: quotes, and the `W/` that a proxy which compresses puts before it."""
    return said.removeprefix("W/").strip('"')


def _odd(operation: str, parsed: Mapping[str, Any]) -> str:
    """What is odd about an answer; empty when nothing is."""
    kind = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", "")
    if operation in _NO_BODY and kind.startswith("text/html"):
        return f"a page ({kind}) as the answer to {operation}"
    if operation == "ListObjectsV2":
        return _odd_listing(parsed)
    lacking = [part for part in _SAID.get(operation, ()) if parsed.get(part) in (None, "")]
    return f"an answer to {operation} without {' and '.join(lacking)}" if lacking else ""


def _odd_listing(parsed: Mapping[str, Any]) -> str:
    if not parsed.keys() & _LISTING:
        return "it lists no objects"
    lacking = {part for found in parsed.get("Contents", ()) for part in _OF_OBJECT if part not in found}
    return f"a listing of objects without {' and '.join(sorted(lacking))}" if lacking else ""
