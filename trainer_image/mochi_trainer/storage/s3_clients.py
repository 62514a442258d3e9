"""Clients of S3 as this trainer needs them, made by boto3: their time limits, whom they trust, and whose keys they show.

Imported with the first client, since what works on folders alone does without boto3 and its 15 MB.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.httpsession import where
from botocore.loaders import Loader, create_loader
from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url, parse_timestamp

from mochi_api.identity import CA_ENV, CREDENTIALS_ENV
from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.storage.s3_answers import IN_XML, Parsers, checked, in_xml
from mochi_trainer.storage.s3_counts import counted
from mochi_trainer.storage.s3_credentials import MountedSecretProvider, require_sent_whole
from mochi_trainer.storage.s3_pace import paced

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from mochi_trainer.storage.s3_connection import Patience

CONNECTIONS = 64
"""Most connections kept open: those of all transfers at once."""


def session_for(spec: S3Spec) -> botocore.session.Session:
    """Where the keys for a server come from; raises as `client_of`, but for what boto3 raises."""
    _require_endpoint(spec.endpoint)
    return _session()


def client_of(
    session: botocore.session.Session, spec: S3Spec, patience: Patience, wants_md5: Callable[[], bool]
) -> S3Client:
    """A client; `wants_md5` says of each upload whether it goes with Content-MD5.

    Raises what boto3 raises when it cannot be made, InvalidInputError for an endpoint or a CA bundle of no use.
    """
    client = _client(session, spec, patience)
    events = client.meta.events
    counted(events)
    paced(client, patience.slow_seconds)
    for operation in IN_XML:
        events.register(f"before-parse.*.{operation}", in_xml)  # "*" comes before botocore's own
    events.register_last("after-call.s3", checked)
    events.register("before-send.s3", require_sent_whole)

    def with_md5(params: dict[str, Any], **_: Any) -> None:
        if wants_md5():
            params["headers"]["Content-MD5"] = _md5(params["body"])

    for operation in ("PutObject", "UploadPart"):
        events.register(f"before-call.s3.{operation}", with_md5)
    if spec.endpoint:
        events.register("before-call.s3.HeadBucket", _not_asked)  # type: ignore[arg-type]  # may answer
    return client


def ca_file() -> Path | None:
    """The file with further certificates that this process was given."""
    return Path(found) if (found := os.environ.get(CA_ENV)) else None


def _not_asked(**_: Any) -> tuple[AWSResponse, dict[str, Any]]:
    """The answer to botocore's own question for the region of a bucket, which it asks of what redirects, without end."""
    error = {
        "Error": {"Code": "404", "Message": "not asked"},
        "ResponseMetadata": {"HTTPStatusCode": 404, "HTTPHeaders": {}},
    }
    return AWSResponse("", 404, HTTPHeaders(), None), error


def _session() -> botocore.session.Session:
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    parsers = Parsers()
    parsers.set_parser_defaults(timestamp_parser=_time)
    session.register_component("response_parser_factory", parsers)
    if folder := os.environ.get(CREDENTIALS_ENV):
        chain = session.get_component("credential_provider")
        chain.providers.insert(0, MountedSecretProvider(Path(folder)))
    if file := ca_file():
        session.set_config_variable("ca_bundle", _trusted(file))  # of the clients of identities too
    return session


def _require_endpoint(endpoint: str) -> None:
    """Raise InvalidInputError for an address that no request can be sent to; a password in it is not repeated."""
    if not endpoint:
        return
    action = "correct storage.s3.endpoint: http://host:port or https://host:port, with nothing behind it"
    try:
        parts = urlsplit(endpoint)
        known = {"http", "https"} & {parts.scheme} and (parts.port is None or parts.port > 0)
    except ValueError:  # of a port that is none, of brackets that are not closed
        raise InvalidInputError(f"storage.s3.endpoint is no address: {endpoint}", action=action) from None
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError(
            f"storage.s3.endpoint has a user before the host {parts.hostname}: keys belong into the Secret",
            action=action,
        )
    if not known or not (is_valid_endpoint_url(endpoint) or is_valid_ipv6_endpoint_url(endpoint)):
        raise InvalidInputError(
            f"storage.s3.endpoint is no address with a host of letters, digits, '-' and '.': {endpoint}",
            action=action,
        )


def _client(session: botocore.session.Session, spec: S3Spec, patience: Patience) -> S3Client:
    config = Config(
        connect_timeout=patience.connect_seconds,
        read_timeout=patience.read_seconds,
        retries={"mode": "standard", "total_max_attempts": patience.attempts},
        s3={"addressing_style": "path" if spec.path_style else "auto"},
        max_pool_connections=CONNECTIONS,
        # Servers other than AWS often do not know the newer checksum trailers.
        request_checksum_calculation="when_required" if spec.endpoint else "when_supported",
        response_checksum_validation="when_required" if spec.endpoint else "when_supported",
    )
    return boto3.session.Session(botocore_session=session).client(
        "s3", region_name=spec.region, endpoint_url=spec.endpoint or None, config=config
    )


def _time(said: Any) -> datetime:
    """A time of an answer. botocore's own parser, which tries every form there is, is most of the cost of a long listing."""
    if isinstance(said, str) and said[10:11] == "T":
        with suppress(ValueError):
            found = datetime.fromisoformat(said)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    parsed: datetime = parse_timestamp(said)
    return parsed


@cache
def _loader() -> Loader:
    """The descriptions of the service, read once; credentials are looked up for each client."""
    return create_loader()


def _trusted(given: Path) -> str:
    """A file with the public authorities and those of `given`. Raises InvalidInputError when it holds no certificate."""
    try:
        own = given.read_text(encoding="utf-8")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=own or "nothing")
    except (OSError, UnicodeDecodeError, ssl.SSLError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInputError(
            f"{given} ({CA_ENV}, which storage.s3.caBundle fills) has no certificates in PEM that can be used: {said}",
            action="correct storage.s3.caBundle: the ConfigMap or Secret and its key",
        ) from error
    return _written(Path(where()).read_text(encoding="utf-8") + "\n" + own)


@cache
def _written(certificates: str) -> str:
    """A file with this text, for the life of the process."""
    file: IO[str] = tempfile.NamedTemporaryFile("w", prefix="mochi-ca-", suffix=".pem", delete=False)  # noqa: SIM115
    with file:
        file.write(certificates)
    atexit.register(Path(file.name).unlink, missing_ok=True)
    return file.name


def _md5(body: Any) -> str:
    """Content-MD5 of what is sent: bytes, or a file from where it stands, which stays there."""
    if isinstance(body, bytes | bytearray):
        return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    start, digest = body.tell(), hashlib.md5(usedforsecurity=False)
    while piece := body.read(1024 * 1024):
        digest.update(piece)
    body.seek(start)
    return base64.b64encode(digest.digest()).decode()
