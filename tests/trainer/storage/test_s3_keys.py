"""Keys, addresses and settings that cannot be used: the one true reason at once, and never a word of what is secret."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from mochi_trainer.errors import AccessDeniedError, InvalidInputError, TrainerError
from mochi_trainer.storage import Connection, open_store
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, fault_proxy
from tests.trainer.storage.test_s3_reasons import BRIEF

ACCESS, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
GOOD = {ACCESS: b"tester", SECRET: b"0123456789abcdef"}
BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "one of two": ({ACCESS: b"tester"}, f"{SECRET} is not in it"),
    "the other of two": ({SECRET: b"0123456789abcdef"}, f"{ACCESS} is not in it"),
    "empty": ({**GOOD, ACCESS: b""}, f"{ACCESS} is empty"),
    "blank": ({**GOOD, SECRET: b" \n"}, f"{SECRET} is empty"),
    "broken over two lines": ({**GOOD, TOKEN: b"first-half\nsecond-half"}, f"{TOKEN} has a line break in it"),
    "two words": ({**GOOD, SECRET: b"first-half second-half"}, f"{SECRET} has a blank"),
    "typographic": ({**GOOD, SECRET: "first-half…second-half".encode()}, f"{SECRET} has a blank or"),
    "NUL": ({**GOOD, ACCESS: b"first-half\0second-half"}, f"{ACCESS} has a blank or"),
    "not text": ({**GOOD, SECRET: b"first-half\xff\xfesecond-half"}, f"{SECRET} is no text in UTF-8"),
}
SECRETS = re.compile("first-half|second-half|0123456789abcdef")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the trainer is told that keys are; the environment has others."""
    found = tmp_path / "keys"
    found.mkdir()
    monkeypatch.setenv("MOCHI_S3_CREDENTIALS", str(found))
    return found


def _hold(folder: Path, keys: dict[str, bytes]) -> None:
    for name, content in keys.items():
        (folder / name).write_bytes(content)


def _refusal(server: Server, caplog: pytest.LogCaptureFixture, **spec: str) -> TrainerError:
    """What a first request ends with; nothing secret may be in it, nor in the log."""
    given = server.spec.model_copy(update=spec)
    store = open_store(f"s3://{BUCKET}/keys/", given, Connection(given, BRIEF))
    with caplog.at_level(logging.DEBUG, "mochi_trainer"), pytest.raises(TrainerError) as caught:
        store.write_bytes("key", b"x")
    shown = f"{caught.value} {caught.value.action} {caplog.text}"
    assert not SECRETS.search(shown), shown
    return caught.value


@pytest.mark.parametrize("case", BAD)
def test_keys_that_cannot_be_used_are_named_and_not_shown(
    case: str, s3_server: Server, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does the environment count instead: its keys are somebody else's."""
    keys, said = BAD[case]
    _hold(folder, keys)
    error = _refusal(s3_server, caplog)
    assert isinstance(error, AccessDeniedError)
    assert f"the keys of Secret s3-keys cannot be used: {said}" in str(error)
    assert "correct Secret s3-keys" in (error.action or "")


@pytest.mark.parametrize("token", [b"", b"\n"])
def test_marks_and_empty_lines_of_editors_do_not_matter(
    token: bytes, s3_server: Server, folder: Path
) -> None:
    access, secret = s3_server.admin
    _hold(
        folder,
        {ACCESS: b"\xef\xbb\xbf" + access.encode() + b"\r\n", SECRET: f"{secret}\n".encode(), TOKEN: token},
    )
    store = open_store(f"s3://{BUCKET}/keys/", s3_server.spec)
    store.write_bytes("key", b"x")


def test_keys_that_are_being_written_do_not_replace_the_last_ones(s3_server: Server, folder: Path) -> None:
    access, secret = s3_server.admin
    _hold(folder, {ACCESS: access.encode(), SECRET: secret.encode()})
    store = open_store(f"s3://{BUCKET}/keys/", s3_server.spec)
    store.write_bytes("key", b"x")
    for half in (b"", b"first-half\nsecond", b"\xff"):
        (folder / SECRET).write_bytes(half)
        assert store.read_bytes("key") == b"x"


@pytest.mark.parametrize("name", [ACCESS, TOKEN])
def test_a_key_of_the_environment_that_breaks_its_header_is_not_shown(
    name: str, s3_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "first-half\nsecond-half")
    error = _refusal(s3_server, caplog, credentials_secret_name="")
    assert isinstance(error, AccessDeniedError)
    assert f"{name} has a line break" in str(error)


@pytest.mark.parametrize("scheme", ["", "http://", "htp://", "socks5://"])
def test_the_password_of_a_proxy_is_not_shown(
    scheme: str,
    s3_server: Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _hold(folder, GOOD)
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}tester:first-half@nobody:80")
    monkeypatch.setenv("NO_PROXY", "")
    assert "@nobody:80" in str(_refusal(s3_server, caplog))


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SlowDown", "AuthorizationHeaderMalformed"])
@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "environment"])
def test_what_a_server_repeats_of_the_keys_is_not_shown(
    mounted: bool,
    code: str,
    s3_server: Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Such as the secret one, where somebody has swapped the two."""
    swapped = {ACCESS: b"first-half-second-half", SECRET: b"tester-of-it"}
    if mounted:
        _hold(folder, swapped)
    else:
        for name, content in swapped.items():
            monkeypatch.setenv(name, content.decode())
    answer = Answer(
        status=503 if code == "SlowDown" else 400, code=code, words="first-half-second-half is unknown"
    )
    with fault_proxy(s3_server.spec, lambda _: answer) as proxy:
        error = _refusal(Server(proxy.spec, s3_server.folder, s3_server.admin), caplog)
    assert "(hidden) is unknown" in str(error)


def test_a_key_that_the_server_cannot_read_is_no_matter_of_the_region(
    s3_server: Server, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _hold(folder, {**GOOD, ACCESS: b"AWS_ACCESS_KEY_ID=tester"})
    assert isinstance(_refusal(s3_server, caplog), AccessDeniedError)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://s3_data:9000", "http://127.0.0.1:99999", "http://127.0.0.1:port", "http://127.0.0.1:0", "http://a b",
        "http://-x:9", "http://x..y:9", "http://münchen:9", "http://?x", "http://[::1", "https://*.x:1", "ftp://x",
        "localhost:9000",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_no_address_is_final_and_named(
    endpoint: str, s3_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    error = _refusal(s3_server, caplog, endpoint=endpoint)
    assert isinstance(error, InvalidInputError)
    assert "storage.s3.endpoint is no address" in str(error)
    assert endpoint in str(error)


def test_a_password_in_the_endpoint_is_not_shown(s3_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    error = _refusal(s3_server, caplog, endpoint="http://user:first-half@127.0.0.1:9000")
    assert isinstance(error, InvalidInputError)
    assert "has a user before the host 127.0.0.1" in str(error)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_PROFILE", "nobody", r"profile \(nobody\) could not be found"),
        ("AWS_CONFIG_FILE", "{}", "Unable to parse config file"),
        ("AWS_DEFAULTS_MODE", "fast", "invalid defaults mode: fast"),
    ],
)
def test_a_setting_of_the_environment_that_is_wrong_is_final_and_named(
    name: str, value: str, said: str, s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "config").write_text("[[")
    monkeypatch.setenv(name, value.format(tmp_path / "config"))
    if "{" in value:
        monkeypatch.setenv(name, str(tmp_path / "config"))
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    error = _refusal(s3_server, caplog)
    assert isinstance(error, InvalidInputError)
    assert re.search(said, str(error))


def test_a_bucket_that_is_none_is_final_and_named(s3_server: Server) -> None:
    store = open_store("s3://No_Bucket/keys", s3_server.spec, Connection(s3_server.spec, BRIEF))
    with pytest.raises(TrainerError, match="No_Bucket"):
        store.write_bytes("key", b"x")
