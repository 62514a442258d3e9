"""The client of one S3 server: its time limits, whom it trusts, and whose keys it shows."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mochi_api.spec import S3Spec

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client

    from mochi_trainer.storage.s3_credentials import MountedSecret


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a server is waited for."""

    connect_seconds: float = 5
    read_seconds: float = 60
    """Longest silence while an answer is read."""
    slow_seconds: float = 120
    """An answer of which less than LEAST_BYTES have come after so long a wait, and no end, is none; a request of which less than
    SENT_BYTES were taken has no server."""
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
        self._session: Session | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> S3Client:
        """Raises what boto3 raises when it cannot be made, InvalidInputError for an endpoint or a CA bundle of no use."""
        with self._lock:
            if self._client is None:
                from mochi_trainer.storage import s3_clients  # only where S3 is used

                self._session = s3_clients.session_for(self.spec)
                self._client = s3_clients.client_of(
                    self._session, self.spec, self.patience, lambda: self.wants_md5
                )
            return self._client

    def keys(self) -> ReadOnlyCredentials | None:
        """Those of the mounted Secret now; None when there is none."""
        secret = self._secret()
        return None if secret is None else secret.get_frozen_credentials()

    def without_keys(self, text: str) -> str:
        """`text` as it may be shown and logged: without the user of an address, a proxy's for example, either."""
        shown = _USER.sub(r"\1(hidden)@", text)
        if self._session is None:
            return shown
        from botocore.exceptions import BotoCoreError

        from mochi_trainer.storage.s3_credentials import UnusableKeysError, hidden

        with suppress(BotoCoreError, UnusableKeysError):
            return hidden(shown, self._session.get_credentials())
        return shown

    def renewed(self, before: ReadOnlyCredentials | None) -> bool:
        """Whether the mounted Secret has other keys than `before`, or gets them in time, if they ever worked."""
        secret = self._secret()
        if secret is None or before is None:
            return False
        return secret.renewed(before, within=self.patience.renewal_seconds if self.answered else 0)

    def _secret(self) -> MountedSecret | None:
        if self._session is None:
            return None
        from mochi_trainer.storage.s3_credentials import MountedSecret

        found = self._session.get_credentials()
        return found if isinstance(found, MountedSecret) else None
