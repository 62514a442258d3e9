"""Keys that come as files: a mounted Secret, read anew for each request, so that a renewed one is seen by a running pod."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

ACCESS, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_HEADERS = {"Authorization": ACCESS, "X-Amz-Security-Token": TOKEN}
LOOK_SECONDS = 1.0
"""Between two looks for a renewed Secret."""


class UnusableKeysError(Exception):
    """Keys that no request can be signed or sent with. The message says which and why, never what they are."""


class MountedSecret(Credentials):
    """The keys in a folder, as they are now. The kubelet swaps all files of a Secret at once, by the link `..data`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = self._read()
        super().__init__(
            str(self._last.access_key), str(self._last.secret_key), self._last.token, method="mounted-secret"
        )

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The last ones while there are none that can be used: the Secret is gone, or being swapped or written."""
        with suppress(OSError, UnusableKeysError):
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
        return ReadOnlyCredentials(_text(folder / ACCESS), _text(folder / SECRET), _token(folder / TOKEN))


class MountedSecretProvider(CredentialProvider):
    """Where botocore asks first."""

    METHOD = "mounted-secret"
    CANONICAL_NAME = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__()

    def load(self) -> Credentials | None:
        """None without the files: botocore then asks where it asks otherwise, the environment first.

        Raises UnusableKeysError for keys that cannot be used: others in their place would be somebody else's.
        """
        there = [name for name in (ACCESS, SECRET) if (self._folder / name).is_file()]
        if not there:
            return None
        if len(there) == 1:
            raise UnusableKeysError(f"{SECRET if there == [ACCESS] else ACCESS} is not in it, {there[0]} is")
        return MountedSecret(self._folder)


def hidden(text: str, keys: Credentials | None) -> str:
    """`text` without the secret ones of these keys, which servers and libraries repeat, as they do the first when both are swapped."""
    if keys is None or type(keys) not in {
        Credentials,
        MountedSecret,
    }:  # others are asked for over the network
        return text
    frozen = keys.get_frozen_credentials()
    for key, least in ((frozen.secret_key, 8), (frozen.token, 8), (frozen.access_key, 16)):
        if key and len(key) >= least:
            text = text.replace(key, "(hidden)")
    return text


def require_sendable(name: str, key: str) -> None:
    """Raise UnusableKeysError for a key that is empty or cannot stand in a header."""
    if not key:
        raise UnusableKeysError(f"{name} is empty")
    odd = [place for place, character in enumerate(key, 1) if not "!" <= character <= "~"]
    if odd:
        what = "a line break" if key[odd[0] - 1] in "\r\n" else "a blank or a character that is no key's"
        raise UnusableKeysError(f"{name} has {what} in it, at position {odd[0]} of {len(key)}")


def require_sent_whole(request: AWSPreparedRequest, **_: object) -> None:
    """Raise UnusableKeysError for keys of any source that break their header; for botocore's event `before-send`.

    The HTTP library complains of such a header too, and repeats it.
    """
    for header, name in _HEADERS.items():
        said = request.headers.get(header, "")
        text = said.decode("latin-1") if isinstance(said, bytes) else said
        if any(character < " " for character in text):
            raise UnusableKeysError(f"{name} has a line break, or another character that is no key's, in it")


def _token(file: Path) -> str | None:
    """Keys that last need none, which some write as an empty file."""
    return _text(file) if file.exists() and file.stat().st_size and file.read_bytes().strip() else None


def _text(file: Path) -> str:
    """The content of a file, which some editors begin with a mark of its encoding and end with an empty line."""
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UnusableKeysError(f"{file.name} is no text in UTF-8") from error
    require_sendable(file.name, text)
    return text
