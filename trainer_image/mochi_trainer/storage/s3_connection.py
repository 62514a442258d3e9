"""The client of one S3 server: its time limits, whom it trusts, and whose keys it shows."""

from __future__ import annotations

import atexit
import base64
import hashlib
import os
import re
import ssl
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
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
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from botocore.httpsession import where
from botocore.loaders import Loader, create_loader
from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url, parse_timestamp

from mochi_api.identity import CA_ENV, CREDENTIALS_ENV
from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError
from mochi_trainer.storage.s3_answers import IN_XML, Parsers, checked, in_xml
from mochi_trainer.storage.s3_counts import counted
from mochi_trainer.storage.s3_credentials import (
    MountedSecret,
    MountedSecretProvider,
    UnusableKeysError,
    hidden,
    require_sent_whole,
)
from mochi_trainer.storage.s3_pace import paced

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECTIONS = 64
"""Most connections kept open: those of all transfers at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a server is waited for."""

    connect_seconds: float = 5
    read_seconds: float = 60
    """Longest silence while an answer is read."""
    slow_seconds: float = 120
    """An answer of which less than LEAST_BYTES have come after so long a wait, and no end, is none."""
    attempts: int = 4
    """Of each request, before the call as a whole is tried again."""
    first_seconds: float = 15
    """How long a call is tried again while the server has not answered this process yet: its address may be wrong."""
    total_seconds: float = 180
    """How long a call is tried again once the server is known. The last try may begin so late, and ends in its own time."""
    renewal_seconds: float = 150
    """How long a renewed Secret is waited for when its keys have worked before: a kubelet brings it within some 90 s."""


_USER = re.compile(r"(\w+://)[^/\s]*@")
"""Of an address, with the password."""


class Connection:
    """The client of one S3 server: made on first use, for any number of stores and threads."""

    def __init__(self, spec: S3Spec, patience: Patience | None = None) -> None:
        self.spec = spec
        self.patience = patience or Patience()
        self.answered = False
        """Whether the server has done what it was asked for, with these keys, at least once."""
        self.wants_md5 = False
        """Whether it takes uploads only with Content-MD5."""
        self._client: S3Client | None = None
        self._session: botocore.session.Session | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> S3Client:
        """Raises what boto3 raises when it cannot be made, InvalidInputError for an endpoint or a CA bundle of no use."""
        with self._lock:
            if self._client is None:
                _require_endpoint(self.spec.endpoint)
                self._session = _session()
                self._client = _client(self._session, self.spec, self.patience)
                events = self._client.meta.events
                counted(events)
                paced(self._client, self.patience.slow_seconds)
                for operation in IN_XML:
                    events.register(f"before-parse.*.{operation}", in_xml)  # "*" comes before botocore's own
                events.register_last("after-call.s3", checked)
                events.register("before-send.s3", require_sent_whole)
                for operation in ("PutObject", "UploadPart"):
                    events.register(f"before-call.s3.{operation}", self._with_md5)
                if self.spec.endpoint:
                    events.register("before-call.s3.HeadBucket", _not_asked)  # type: ignore[arg-type]  # may answer
            return self._client

    def keys(self) -> ReadOnlyCredentials | None:
        """Those of the mounted Secret now; None when there is none."""
        secret = self._secret()
        return None if secret is None else secret.get_frozen_credentials()

    def without_keys(self, text: str) -> str:
        """`text` as it may be shown and logged: without the user of an address, a proxy's for example, either."""
        shown = _USER.sub(r"\1(hidden)@", text)
        with suppress(BotoCoreError, UnusableKeysError):
            return hidden(shown, None if self._session is None else self._session.get_credentials())
        return shown

    def renewed(self, before: ReadOnlyCredentials | None) -> bool:
        """Whether the mounted Secret has other keys than `before`, or gets them in time, if they ever worked."""
        secret = self._secret()
        if secret is None or before is None:
            return False
        return secret.renewed(before, within=self.patience.renewal_seconds if self.answered else 0)

    def _secret(self) -> MountedSecret | None:
        found = None if self._session is None else self._session.get_credentials()
        return found if isinstance(found, MountedSecret) else None

    def _with_md5(self, params: dict[str, Any], **_: Any) -> None:
        if self.wants_md5:
            params["headers"]["Content-MD5"] = _md5(params["body"])


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
