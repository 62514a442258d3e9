"""Failures of calls to S3: what they are called, and whether the same call may do better in a moment."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    EndpointProviderError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    InvalidChecksumConfigError,
    InvalidConfigError,
    InvalidDefaultsMode,
    InvalidEndpointConfigurationError,
    InvalidProxiesConfigError,
    InvalidRetryConfigurationError,
    InvalidS3AddressingStyleError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ResponseStreamingError,
    SSLError,
    UnknownCredentialError,
    ValidationError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError
from urllib3.exceptions import HTTPError

from mochi_trainer.storage.s3_credentials import UnusableKeysError


class NotS3Error(Exception):
    """An answer that no S3 server gives; the message says what is odd about it."""


class CutShortError(OSError):
    """Fewer bytes came than were announced."""


FAILURES = (ClientError, BotoCoreError, Boto3Error, RetriesExceededError, S3DownloadFailedError, HTTPError, OSError, NotS3Error,
            ResponseParserError, UnusableKeysError)  # fmt: skip
"""What boto3 and the streams that it gives raise."""

CONFIGURATION = (ProfileNotFound, ConfigParseError, ConfigNotFound, InvalidConfigError, InvalidDefaultsMode,
                 InvalidChecksumConfigError, InvalidEndpointConfigurationError, InvalidProxiesConfigError,
                 InvalidRetryConfigurationError, InvalidS3AddressingStyleError, EndpointProviderError, UnknownCredentialError,
                 ParamValidationError, ValidationError)  # fmt: skip
"""What boto3 says of a value, a variable or a file before it asks anybody."""

MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
EXISTS = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
CHANGED = {"PreconditionFailed", "412"}
BODILESS = {"400", "401", "403", "404", "301", "302", "307", "308"}
"""Answers to HEAD, which has no body to say why."""
RENEWABLE = {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired",
             "SignatureDoesNotMatch", "XAdminUserNotFound"}  # fmt: skip
"""What a server says of keys that were replaced or have run out."""
_FOR_NOW = {
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded",
    "BandwidthLimitExceeded", "RequestTimeout", "OperationAborted", "BadDigest", "IncompleteBody", "InternalError",
    "XAmzContentSHA256Mismatch", "NoSuchUpload", "InvalidPart",
}  # fmt: skip
"""By code; of an upload in parts, the server has lost what it was sent."""


def code_of(error: BaseException) -> str:
    """The code of an S3 error; empty for others."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def passing(error: BaseException) -> bool:
    """Whether the same call may do better in a moment."""
    if isinstance(error, ClientError):
        status = status_of(error)
        return code_of(error) in _FOR_NOW or (status >= 500 and status != 501) or status in {408, 429}
    if isinstance(error, SSLError):
        return not about_trust(error)
    lasting = (NoCredentialsError, PartialCredentialsError)
    broken = (NoConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError, ChecksumError,
              FlexibleChecksumError)  # fmt: skip
    own = (ConnectionError, TimeoutError, CutShortError)
    transfer = (Boto3Error, RetriesExceededError, S3DownloadFailedError, HTTPError, CredentialRetrievalError)
    return isinstance(error, (*broken, *own, *transfer)) and not isinstance(error, lasting)


def wants_md5(error: BaseException) -> bool:
    """Whether an upload was refused for want of Content-MD5."""
    return isinstance(error, ClientError) and (
        code_of(error) == "MissingContentMD5" or "content-md5" in said_by(error).lower()
    )


def knows_no_conditions(error: ClientError) -> bool:
    """Whether a server refuses to write only where nothing is, because it cannot."""
    return code_of(error) in {"NotImplemented", "501"}


def asked_to_wait(error: BaseException) -> float:
    """Seconds of a `Retry-After`, which may name a moment of the server's clock; 0 without one."""
    if not isinstance(error, ClientError):
        return 0
    headers = headers_of(error)
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    then, now = moment(text), moment(headers.get("date", "")) or datetime.now(UTC)
    return 0 if then is None else max(0.0, (then - now).total_seconds())


def moment(text: str) -> datetime | None:
    """A date of a header; None where it is none."""
    try:
        said = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return said if said.tzinfo else said.replace(tzinfo=UTC)  # `-0000`, which names no zone


def about_trust(error: SSLError) -> bool:
    """Whether the certificate, or the absence of TLS, is the matter, and not a connection that broke."""
    text = str(error)
    return any(
        word in text
        for word in ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "WRONG_VERSION_NUMBER",
                     "RECORD_LAYER_FAILURE", "doesn't match")
    )  # fmt: skip


def said_by(error: ClientError) -> str:
    return f"{code_of(error)}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def headers_of(error: ClientError) -> dict[str, str]:
    return dict(error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
