"""Keys, tokens and kubeconfigs of one cluster; all readable by their owner only."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import yaml

USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "training-operator": ("training-operator", "system:masters"),
}
"""File name -> (user, group) the API server sees."""

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def signing_key() -> str:
    """A new P-256 private key in PEM (RFC 5915, without the optional public part) for service account tokens."""
    scalar = (secrets.randbelow(_P256_ORDER - 1) + 1).to_bytes(32, "big")
    curve = bytes.fromhex("a00a06082a8648ce3d030107")  # [0] OID prime256v1
    der = bytes.fromhex("30310201010420") + scalar + curve
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END EC PRIVATE KEY-----\n"


def tokens() -> dict[str, str]:
    """A random token for each of `USERS`."""
    return {name: secrets.token_urlsafe(32) for name in USERS}


def token_file(token_of: dict[str, str]) -> str:
    """Lines of --token-auth-file: token, user, uid, group."""
    lines = []
    for name, (user, group) in USERS.items():
        lines.append(
            ",".join([token_of[name], user, user, f'"{group}"'] if group else [token_of[name], user, user])
        )
    return "\n".join(lines) + "\n"


def kubeconfig(server: str, ca: bytes, token: str, *, name: str) -> str:
    """A kubeconfig with one context, called `name`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": name,
                "cluster": {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()},
            }
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False)
