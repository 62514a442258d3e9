"""Keys that come as files: a mounted Secret, read anew for each request, so that a renewed one is seen by a running pod."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials

ACCESS, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
LOOK_SECONDS = 1.0
"""Between two looks for a renewed Secret."""


class MountedSecret(Credentials):
    """The keys in a folder, as they are now. The kubelet swaps all files of a Secret at once, by the link `..data`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = self._read()
        super().__init__(
            str(self._last.access_key), str(self._last.secret_key), self._last.token, method="mounted-secret"
        )

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The last ones while there are none: the Secret is gone, or being swapped."""
        with suppress(OSError, UnicodeDecodeError):
            self._last = self._read()
        return self._last

    def renewed(self, before: ReadOnlyCredentials, *, within: float) -> bool:
        """Whether there are others than `before`; waits for them for so many seconds."""
        end = time.monotonic() + within
        while True:
            if self.get_frozen_credentials() != before:
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))

    def _read(self) -> ReadOnlyCredentials:
        link = self._folder / "..data"
        folder = Path(os.path.realpath(link)) if link.is_symlink() else self._folder
        token = folder / TOKEN
        return ReadOnlyCredentials(
            _text(folder / ACCESS), _text(folder / SECRET), _text(token) or None if token.exists() else None
        )


class MountedSecretProvider(CredentialProvider):
    """Where botocore asks first."""

    METHOD = "mounted-secret"
    CANONICAL_NAME = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__()

    def load(self) -> Credentials | None:
        """None without the two files: botocore then asks where it asks otherwise, the environment first."""
        if not all((self._folder / name).is_file() for name in (ACCESS, SECRET)):
            return None
        return MountedSecret(self._folder)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()
