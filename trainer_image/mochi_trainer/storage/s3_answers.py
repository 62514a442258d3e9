"""What an S3 server says when it has done what it was asked for: an answer without that comes from something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from botocore.parsers import ResponseParserError, ResponseParserFactory

from mochi_trainer.storage.s3_faults import CutShortError, NotS3Error

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
IN_XML = ("ListObjectsV2", "CreateMultipartUpload", "CompleteMultipartUpload")
"""Operations that are answered in XML."""
_LARGEST = 64 << 40
"""Bytes of an object that no server holds."""
_LISTING = {"KeyCount", "IsTruncated", "Name", "Contents"}
"""A listing has one of them at least."""
_NO_BODY = {"PutObject", "UploadPart", "DeleteObject", "AbortMultipartUpload"}
"""Operations that are answered without a body: a page in its place is none of S3."""


class Parsers(ResponseParserFactory):
    """botocore's parsers, but what they cannot read of an answer is a NotS3Error, whatever they raise."""

    def create_parser(self, protocol_name: str) -> Any:
        parser: Any = super().create_parser(protocol_name)
        read = parser.parse

        def parse(response: Any, shape: Any) -> Any:
            try:
                return read(response, shape)
            except (ResponseParserError, ValueError, OverflowError, TypeError) as error:
                raise NotS3Error(f"an answer that cannot be read: {error}") from error

        parser.parse = parse
        return parser


def in_xml(response_dict: Mapping[str, Any], operation_model: OperationModel, **_: Any) -> None:
    """Raise for a success of which the body is no XML; for botocore's event `before-parse` of the operations IN_XML.

    botocore itself calls it an error of the server. CutShortError where XML breaks off, else NotS3Error.
    """
    body, headers = response_dict["body"], response_dict["headers"]
    if response_dict["status_code"] != 200 or not body.strip():
        return
    try:
        ElementTree.fromstring(body)  # noqa: S314  # as botocore does next
    except ElementTree.ParseError as error:
        if body.lstrip().startswith((b"<?xml", b"<List", b"<Complete", b"<Initiate")):
            raise CutShortError(f"the answer to {operation_model.name} is no whole XML: {error}") from error
        kinds = (headers.get("content-type"), headers.get("content-encoding"))
        told = ", ".join(kind for kind in kinds if kind) or "of no type"
        raise NotS3Error(f"an answer to {operation_model.name} that is no XML ({told})") from error


def as_asked(content_range: str, start: int) -> None:
    """Raise NotS3Error when an answer says that its bytes begin elsewhere than at `start`; saying nothing is none of it."""
    begun = re.match(r"bytes (\d+)-", content_range)
    if begun and int(begun[1]) != start:
        raise NotS3Error(f"{content_range} as the answer to bytes from {start} on")


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
    if lacking:
        return f"an answer to {operation} without {' and '.join(lacking)}"
    return _odd_size(parsed.get("ContentLength", 0))


def _odd_listing(parsed: Mapping[str, Any]) -> str:
    if not parsed.keys() & _LISTING:
        return "it lists no objects"
    lacking = {part for found in parsed.get("Contents", ()) for part in _OF_OBJECT if part not in found}
    if lacking:
        return f"a listing of objects without {' and '.join(sorted(lacking))}"
    return next(filter(None, (_odd_size(found["Size"]) for found in parsed.get("Contents", ()))), "")


def _odd_size(size: int) -> str:
    return "" if 0 <= size <= _LARGEST else f"an object of {size} bytes"
