"""A Secret as the kubelet mounts it, and the accounts of an S3 server that it has the keys of."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.binaries import find
from tests.trainer.conftest import Server, serving


class Mounted:
    """Files that link through `..data`, which is swapped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._version = folder, 0
        folder.mkdir()

    def holds(self, access: str, secret: str, token: str = "") -> None:
        """Swap in other keys."""
        self._version += 1
        version = self.folder / f"..v{self._version}"
        version.mkdir()
        found = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        for name, text in {**found, **({"AWS_SESSION_TOKEN": token} if token else {})}.items():
            (version / name).write_text(text + "\n", encoding="utf-8")
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")


class Accounts:
    """Of a server that asks for its accounts with each request."""

    def __init__(self, server: Server, admin: tuple[str, str]) -> None:
        self.server, self._admin = server, admin

    def made(self, name: str) -> tuple[str, str]:
        """The keys of a new account that may do everything."""
        secret = secrets.token_hex(16)
        self._asked("create-user", "--access", name, "--secret", secret, "--role", "admin")
        return name, secret

    def revoked(self, name: str) -> None:
        """The server does not know its keys any more."""
        self._asked("delete-user", "--access", name)

    def _asked(self, *words: str) -> None:
        program, (access, secret) = find("versitygw"), self._admin
        assert program is not None
        whose = ("--access", access, "--secret", secret, "--endpoint-url", self.server.spec.endpoint)
        subprocess.run([program, "admin", *whose, *words], check=True, capture_output=True, timeout=60)


@contextmanager
def serving_accounts(folder: Path) -> Iterator[Accounts]:
    """A server with accounts, for the length of the block."""
    (folder / "accounts").mkdir()
    options = ("--iam-dir", str(folder / "accounts"), "--iam-cache-disable")
    with serving(folder, *options) as server:
        yield Accounts(server, server.admin)
