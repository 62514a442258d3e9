"""S3 over TLS whose certificate no public authority has signed."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import InvalidInputError, StorageError
from mochi_trainer.storage import Connection, Patience, Store, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Lost, fault_proxy, once

BRIEF = Patience(
    connect_seconds=2, read_seconds=2, attempts=1, first_seconds=5, total_seconds=5, renewal_seconds=0
)


class Authority:
    """One that signs certificates, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.file = folder, folder / "ca.crt"
        folder.mkdir()
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Company CA", "-days", "2",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def server(self, name: str, days: int = 2) -> ssl.SSLContext:
        """The side of a server with a certificate for `name`."""
        (self._folder / "names").write_text(
            f"subjectAltName={name}\nauthorityKeyIdentifier=keyid\n", encoding="ascii"
        )
        self._openssl("req", "-new", *_NEW_KEY, "-keyout", "s.key", "-out", "s.csr", "-subj", "/CN=s3")
        self._openssl(
            "x509", "-req", "-in", "s.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", "s.crt",
            "-days", str(days), "-extfile", "names",
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "s.crt", self._folder / "s.key")
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True, timeout=60)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A company's own."""
    return Authority(tmp_path / "ca")


CALLS: dict[str, Callable[[Store, Path], object]] = {
    "read_bytes": lambda s, _: s.read_bytes("key"),
    "get": lambda s, folder: s.get("key", folder / "copy"),
    "list": lambda s, _: list(s.list()),
    "head": lambda s, _: s.head("key"),
    "write_bytes": lambda s, _: s.write_bytes("key", b"x"),
    "put": lambda s, folder: s.put(folder / "ca" / "ca.crt", "key"),
}


@pytest.mark.parametrize("name", CALLS)
def test_without_its_authority_the_certificate_and_the_field_are_named_at_once(
    name: str, s3_server: Server, authority: Authority, tmp_path: Path
) -> None:
    with fault_proxy(s3_server.spec, lambda _: None, tls=authority.server("IP:127.0.0.1")) as proxy:
        store = open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF))
        with pytest.raises(
            InvalidInputError, match=r"the certificate of https://127\.0\.0\.1:\d+ is not trusted"
        ) as caught:
            CALLS[name](store, tmp_path)
    assert "unable to get local issuer certificate" in str(caught.value)
    assert "storage.s3.caBundle" in (caught.value.action or "")


def test_with_its_authority_everything_works(
    s3_server: Server, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    with fault_proxy(s3_server.spec, lambda _: None, tls=authority.server("IP:127.0.0.1")) as proxy:
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}/", proxy.spec)
        store.write_bytes("key", b"over TLS")
        store.get("key", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"over TLS"
        assert [info.key for info in store.list()] == ["key"]


def test_public_authorities_are_trusted_all_the_same(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identities of clouds ask servers with public certificates."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")

    connection = Connection(S3Spec(), BRIEF)
    trusted = (
        connection.client.meta.client if hasattr(connection.client.meta, "client") else connection.client
    )
    file = trusted._endpoint.http_session._verify  # type: ignore[attr-defined]  # shown nowhere else
    context = ssl.create_default_context(cafile=file)
    names = {dict(pair[0] for pair in found["subject"]).get("commonName") for found in context.get_ca_certs()}
    assert {"Company CA", "Amazon Root CA 1"} <= names


def test_a_certificate_for_another_name_is_said_to_be_one(
    s3_server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    with fault_proxy(s3_server.spec, lambda _: None, tls=authority.server("DNS:minio.example")) as proxy:
        store = open_store(f"s3://{BUCKET}/x/", proxy.spec, Connection(proxy.spec, BRIEF))
        with pytest.raises(
            InvalidInputError,
            match=r"not trusted for s3://data/x/key: hostname '127\.0\.0\.1' doesn't match 'minio",
        ):
            store.read_bytes("key")


def test_an_endpoint_that_speaks_no_tls_is_said_to_be_one(s3_server: Server) -> None:
    spec = s3_server.spec.model_copy(update={"endpoint": s3_server.spec.endpoint.replace("http:", "https:")})
    store = open_store(f"s3://{BUCKET}/x/", spec, Connection(spec, BRIEF))
    with pytest.raises(InvalidInputError, match="does not speak TLS") as caught:
        store.read_bytes("key")
    assert "http://" in (caught.value.action or "")


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_bundle_without_certificates_names_the_file_and_the_field(
    content: bytes | None, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with pytest.raises(
        InvalidInputError, match=r"ca\.crt .*storage\.s3\.caBundle.* has no certificates"
    ) as caught:
        open_store(f"s3://{BUCKET}/x/", s3_server.spec).read_bytes("key")
    assert "storage.s3.caBundle" in (caught.value.action or "")


def test_a_connection_that_breaks_under_tls_is_no_matter_of_trust(
    s3_server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    rule = once(lambda _: True, Lost(done=False))
    with fault_proxy(s3_server.spec, rule, tls=authority.server("IP:127.0.0.1")) as proxy:
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}/", proxy.spec, Connection(proxy.spec, BRIEF))
        store.write_bytes("key", b"x")
        assert store.read_bytes("key") == b"x"


@pytest.mark.parametrize("name", CALLS)
def test_a_tls_server_asked_in_the_clear_is_said_to_be_one(
    name: str, s3_server: Server, authority: Authority, tmp_path: Path
) -> None:
    with fault_proxy(s3_server.spec, lambda _: None, tls=authority.server("IP:127.0.0.1")) as proxy:
        spec = proxy.spec.model_copy(update={"endpoint": proxy.spec.endpoint.replace("https:", "http:")})
        with pytest.raises(InvalidInputError, match=r"speaks TLS, and .* is asked for without") as caught:
            CALLS[name](open_store(f"s3://{BUCKET}/x/", spec, Connection(spec, BRIEF)), tmp_path)
    assert "https://" in (caught.value.action or "")


IN_WORDS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
ALERT = b"\x15\x03\x01\x00\x02\x02\x28"


@contextmanager
def _port(to_tls: bytes, to_http: bytes) -> Iterator[str]:
    """What answers a first message in either language like this, and hangs up; with nothing, it only hangs up."""

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.sendall(to_tls if client.recv(65536).startswith(b"\x16") else to_http)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("scheme", "to_tls", "to_http", "message"),
    [
        pytest.param("http", ALERT, IN_WORDS, "speaks TLS", id="a TLS server that says so"),
        pytest.param("http", ALERT, b"", "speaks TLS", id="a TLS server that hangs up"),
        pytest.param("http", ALERT, ALERT, "speaks TLS", id="a TLS server that warns"),
        pytest.param("https", b"", IN_WORDS, "does not speak TLS", id="a plain server that hangs up"),
        pytest.param("https", IN_WORDS, IN_WORDS, "does not speak TLS", id="a plain server that says so"),
    ],
)
def test_the_port_is_asked_what_it_speaks(
    scheme: str, to_tls: bytes, to_http: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with _port(to_tls, to_http) as address:
        spec = S3Spec(endpoint=f"{scheme}://{address}", path_style=True)
        with pytest.raises(InvalidInputError, match=message) as caught:
            open_store("s3://data/x/", spec, Connection(spec, BRIEF)).read_bytes("key")
    assert {"http": "https://", "https": "http://"}[scheme] in (caught.value.action or "")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_that_says_nothing_is_no_matter_of_its_language(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with _port(b"", b"") as address:
        spec = S3Spec(endpoint=f"{scheme}://{address}", path_style=True)
        with pytest.raises(StorageError):
            open_store("s3://data/x/", spec, Connection(spec, BRIEF)).read_bytes("key")
