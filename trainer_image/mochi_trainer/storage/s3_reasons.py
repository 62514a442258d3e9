"""What an S3 server, or what stands in its place, said: the one true reason, and whose move it is.

```
a reason for now         no answer, an answer cut off, 5xx, 408, 429, SlowDown: tried again in the call, then StorageError
a reason with an end     the keys have expired, the clock is wrong: NotAdmittedError with what to do, so attempts go on
a reason for good        everything else: MissingObjectError, AccessDeniedError, InvalidInputError
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from s3transfer.exceptions import RetriesExceededError

from mochi_api.spec import S3Spec
from mochi_trainer.errors import (
    AccessDeniedError,
    ArchivedObjectError,
    DiskFullError,
    InvalidInputError,
    MissingObjectError,
    NotAdmittedError,
    StorageError,
    TrainerError,
    disk_full,
)
from mochi_trainer.storage.s3_credentials import UnusableKeysError
from mochi_trainer.storage.s3_faults import (
    CONFIGURATION,
    MISSING,
    NotS3Error,
    about_trust,
    code_of,
    headers_of,
    moment,
    passing,
    said_by,
    status_of,
)
from mochi_trainer.storage.s3_pace import SlowAnswerError
from mochi_trainer.storage.s3_ports import spoken

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_ELSEWHERE = {"PermanentRedirect", "IllegalLocationConstraintException"}
_MALFORMED = "AuthorizationHeaderMalformed"
"""Of another region, or of keys that are none."""
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage",
         "InsufficientCapacity", "StorageQuotaExceeded", "507"}  # fmt: skip
_REDIRECTS = {301, 302, 303, 307, 308}
_DENIED = {
    "403", "401", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "InvalidToken", "AllAccessDisabled", "AccountProblem", "UnauthorizedAccess",
    "XAdminUserNotFound",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call went."""

    address: str
    bucket: str
    spec: S3Spec
    answered: bool
    """Whether the server has done something for this process before."""

    @property
    def endpoint(self) -> str:
        """The server, in words."""
        return self.spec.endpoint or f"AWS S3 in {self.spec.region}"

    @property
    def keys(self) -> str:
        """Whose keys were shown, in words."""
        name = self.spec.credentials_secret_name
        return (
            f"Secret {name}" if name else "the pod's own identity (storage.s3.credentialsSecretName is empty)"
        )


def explained(error: BaseException, place: Place, *, seconds: float) -> TrainerError:
    """`error`, after so many seconds, as one of ours."""
    if isinstance(error, RetriesExceededError):
        return explained(error.last_exception, place, seconds=seconds)
    if isinstance(error, ClientError):
        return _answered(error, place)
    return _unanswered(error, place) or StorageError(
        f"{place.address} at {place.endpoint}: {one_line(error)}"
        + (f" (waited {seconds:.0f} s)" if seconds >= 1 else "")
    )


def _unanswered(error: BaseException, place: Place) -> TrainerError | None:
    """What is no answer of S3 and has a reason of its own."""
    if isinstance(error, NotS3Error | ResponseParserError):
        return _not_s3(place, one_line(error))
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return AccessDeniedError(f"{place.address}: no S3 credentials found in {place.keys}")
    if isinstance(error, SSLError) and about_trust(error):
        return _untrusted(error, place)
    if isinstance(error, OSError) and disk_full(error):
        return DiskFullError(f"no space left on the local disk for {place.address}")
    return _unasked(error, place)


def _unasked(error: BaseException, place: Place) -> TrainerError | None:
    """What ended a call before anybody was asked."""
    if isinstance(error, UnusableKeysError):
        return _unusable(error, place)
    if isinstance(error, CONFIGURATION):
        return InvalidInputError(
            f"nobody can be asked for {place.address} with the settings of S3 that are given: {one_line(error)}",
            action="correct storage.s3, or the variable (AWS_...) or the file that the message is about",
        )
    return None


def _unusable(error: UnusableKeysError, place: Place) -> TrainerError:
    name = place.spec.credentials_secret_name
    return AccessDeniedError(
        f"{place.address}: the keys of {place.keys} cannot be used: {error}",
        action=f"correct Secret {name}: each key as it was given out, without quotes or line breaks"
        if name
        else "correct the variables or the file that the keys come from",
    )


def _answered(error: ClientError, place: Place) -> TrainerError:
    for check in _CHECKS:
        if (found := check(error, place)) is not None:
            return found
    return StorageError(f"{place.address} at {place.endpoint}: {said_by(error)}")


def _foreign(error: ClientError, place: Place) -> TrainerError | None:
    return _not_s3(place, f"HTTP {status_of(error)}{_kind(error)}") if foreign(error) else None


def _missing(error: ClientError, place: Place) -> TrainerError | None:
    if code_of(error) == "NoSuchBucket":
        return MissingObjectError(
            f"bucket {place.bucket} of {place.address} does not exist at {place.endpoint}"
        )
    if code_of(error) in MISSING:
        return MissingObjectError(f"{place.address} does not exist at {place.endpoint}")
    if code_of(error) == "InvalidBucketName":
        return MissingObjectError(f"{place.address} is not at {place.endpoint} ({said_by(error)})")
    return None


def _denied(error: ClientError, place: Place) -> TrainerError | None:
    if code_of(error) not in _DENIED and code_of(error) != _MALFORMED:
        return None
    return AccessDeniedError(
        f"{place.address} refused with the credentials of {place.keys} ({said_by(error)})"
    )


def foreign(error: ClientError) -> bool:
    """Whether something other than an S3 server answered: botocore has only the status, and no header is Amazon's."""
    code, status = code_of(error), status_of(error)
    if error.operation_name == "HeadObject":  # has no body to know a server by
        return False
    plain = code == str(status) or not code
    amazons = any(name.startswith("x-amz-") for name in headers_of(error))
    return plain and not amazons and (200 <= status < 500 or status == 501) and status not in {408, 429}


def _not_s3(place: Place, what: str) -> TrainerError:
    text = f"what answers at {place.endpoint} is no S3 server: {what} for {place.address}"
    if place.answered:  # something stands in front of it for now
        return StorageError(text)
    return InvalidInputError(
        text, action="correct storage.s3.endpoint: the address of the S3 API, not of a console or a web page"
    )


def _archived(error: ClientError, place: Place) -> TrainerError | None:
    if code_of(error) != "InvalidObjectState":
        return None
    kind = error.response.get("Error", {}).get("StorageClass", "")
    return ArchivedObjectError(
        f"{place.address} is archived{f' ({kind})' if kind else ''} and cannot be read ({said_by(error)})",
        action="restore the object named in the message, or copy it to a storage class that can be read at once",
    )


def _elsewhere(error: ClientError, place: Place) -> TrainerError | None:
    other_region = code_of(error) == _MALFORMED and "region" in said_by(error).lower()
    if not other_region and code_of(error) not in _ELSEWHERE and status_of(error) not in _REDIRECTS:
        return None
    details: dict[str, Any] = dict(error.response.get("Error", {}))
    region = details.get("Region") or headers_of(error).get("x-amz-bucket-region", "")
    if region and region != place.spec.region:
        return MissingObjectError(
            f"bucket {place.bucket} of {place.address} is in region {region}, storage.s3.region is "
            f"{place.spec.region} ({said_by(error)})",
            action=f"set storage.s3.region to {region}",
        )
    to = details.get("Endpoint") or headers_of(error).get("location", "")
    return MissingObjectError(
        f"{place.address} is not at {place.endpoint}, region {place.spec.region}: it points to "
        f"{to or 'somewhere else'} ({said_by(error)})",
        action="set storage.s3.endpoint and storage.s3.region to where the bucket is",
    )


def _expired(error: ClientError, place: Place) -> TrainerError | None:
    if code_of(error) not in _EXPIRED:
        return None
    secret = place.spec.credentials_secret_name
    return NotAdmittedError(
        f"{place.address}: the token in {place.keys} has expired ({said_by(error)})",
        action=f"renew Secret {secret}: what runs takes the new keys from it; a run that has failed can be gone on "
        "from with training.resumeFrom"
        if secret
        else "look at the identity of the pod's ServiceAccount: its token is not renewed",
    )


def _clock(error: ClientError, place: Place) -> TrainerError | None:
    if code_of(error) not in _CLOCK:
        return None
    theirs = moment(headers_of(error).get("date", ""))
    ahead = "" if theirs is None else f" by {abs((datetime.now(UTC) - theirs).total_seconds()):.0f} s"
    return NotAdmittedError(
        f"{place.address}: the clock of this node differs from that of {place.endpoint}{ahead} ({said_by(error)})",
        action="set the clocks of the node and of the S3 server (NTP); at most 15 minutes of difference are allowed",
    )


def _full(error: ClientError, place: Place) -> TrainerError | None:
    if code_of(error) not in _FULL:
        return None
    return StorageError(
        f"{place.address} at {place.endpoint}: there is no room left for it ({said_by(error)})",
        action=f"make room in bucket {place.bucket}, or raise its quota; `python -m mochi_trainer cache` lists what no run uses",
    )


def _locked(error: ClientError, place: Place) -> TrainerError | None:
    if not code_of(error).startswith("KMS"):
        return None
    return AccessDeniedError(
        f"{place.address}: the key that the bucket is encrypted with cannot be used ({said_by(error)})",
        action=f"let the credentials of {place.keys} use the KMS key of bucket {place.bucket}, and enable it",
    )


_CHECKS = (_foreign, _missing, _archived, _elsewhere, _expired, _clock, _full, _locked, _denied)
"""What an answer may say, in the order in which it is asked."""


def _untrusted(error: SSLError, place: Place) -> TrainerError:
    text = one_line(error)
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return _without_tls(place)
    why = re.sub(
        r"^SSL validation failed for \S+ |^.*certificate verify failed: | \(_ssl\.c:\d+\)$", "", text
    )
    return InvalidInputError(
        f"the certificate of {place.endpoint} is not trusted for {place.address}: {why}",
        action="give the certificate of its authority with storage.s3.caBundle, or correct the server's certificate",
    )


def misspoken(error: BaseException, place: Place) -> TrainerError | None:
    """What is asked of a port in the other of the two languages; None where that is not the matter, or nobody knows."""
    said_oddly = foreign(error) if isinstance(error, ClientError) else passing(error)
    if place.answered or not place.spec.endpoint or not said_oddly:
        return None
    over_tls, speech = place.spec.endpoint.startswith("https:"), spoken(place.spec.endpoint)
    if over_tls and speech == "HTTP":
        return _without_tls(place)
    if not over_tls and speech == "TLS":
        return InvalidInputError(
            f"the port of {place.endpoint} speaks TLS, and {place.address} is asked for without",
            action="write storage.s3.endpoint with https://, or with the port that speaks plain HTTP",
        )
    return None


def _without_tls(place: Place) -> TrainerError:
    return InvalidInputError(
        f"{place.endpoint} does not speak TLS, which {place.address} is asked for over",
        action="write storage.s3.endpoint with http://, or with the port that speaks TLS",
    )


def _kind(error: ClientError) -> str:
    """What else is known of a foreign answer."""
    found = headers_of(error)
    shown = (found.get("content-type", ""), found.get("server", ""), found.get("location", ""))
    return f" ({', '.join(part for part in shown if part)})" if any(shown) else ""


def one_line(error: BaseException) -> str:
    """What it says, or what it came from where that says more: libraries call a slow answer a closed connection."""
    told: BaseException | None = error
    while told is not None and not isinstance(told, SlowAnswerError):
        told = told.__cause__ or told.__context__
    return " ".join(str(told or error).split())
