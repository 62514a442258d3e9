"""Credentials for the calls and for the watches: service accounts, kubeconfigs, exec plugins, and their renewal."""

import asyncio
import json
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from kopf._core.intents.causes import Activity
from kubernetes.aio.client import Configuration

from mochi_operator import VERSION, handlers
from mochi_operator.connection import FRESH_SECONDS, REFUSED_SECONDS, Connector, Login, LoginError

SERVER = "https://10.0.0.1:6443"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A CA that can be loaded; no connection is made with it."""
    import certifi

    path = tmp_path / "ca.crt"
    path.write_bytes(Path(certifi.where()).read_bytes())
    return path


@pytest.fixture
def account(tmp_path: Path, authority: Path) -> Path:
    """A folder such as the kubelet mounts."""
    (tmp_path / "token").write_text("first")
    return tmp_path


IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "fd00::1"}


def kubeconfig(path: Path, user: dict, server: str = SERVER, **cluster) -> dict[str, str]:
    """The environment with a kubeconfig of one user."""
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return {"KUBECONFIG": str(path)}


def plugin(folder: Path, body: str) -> dict:
    """A user whose credentials a script prints; `runs` in its folder grows by a line each time."""
    script = folder / "plugin.py"
    script.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\n"
        f"open({str(folder / 'runs')!r}, 'a').write('x\\n')\n"
        f"count = len(open({str(folder / 'runs')!r}).readlines())\n{body}\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script), "args": ["get"]}
    }


def prints_token(valid: timedelta) -> str:
    """Body of a plugin whose tokens are numbered."""
    end = (datetime.now(UTC) + valid).strftime("%Y-%m-%dT%H:%M:%SZ")
    given = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    return (
        f"told = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\nassert told['kind'] == 'ExecCredential'\n"
        f"status = {{'token': f'{{sys.argv[1]}}-{{count}}', 'expirationTimestamp': {end!r}}}\n"
        f"print(json.dumps({{**{json.dumps(given)}, 'status': status}}))"
    )


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


async def eventually(login: Login) -> Configuration:
    """What a login brings within 20 seconds."""
    async with asyncio.timeout(20):
        while True:
            with suppress(LoginError):
                return await login.read()


async def token(connector: Connector) -> str | None:
    client = await connector.client()
    return await client.configuration.get_api_key_with_prefix("BearerToken")


async def test_a_service_account_is_used_at_the_address_that_the_kubelet_gives(account):
    login = Login(IN_CLUSTER, account)
    client = await Connector(login).client()
    info = await login.for_watches()
    assert client.configuration.host == "https://[fd00::1]:443"
    assert client.user_agent == f"mochi-operator/{VERSION}"
    assert (info.server, info.token, info.ca_path) == (
        "https://[fd00::1]:443",
        "first",
        str(account / "ca.crt"),
    )
    assert info.as_http_headers()["Authorization"].lower() == "bearer first"
    await client.close()


async def test_a_token_that_the_kubelet_renews_is_used_within_a_minute_on_the_same_connections(account):
    now = [0.0]
    connector = Connector(Login(IN_CLUSTER, account), lambda: now[0])
    before = await connector.client()
    assert await token(connector) == "bearer first"
    (account / "token").write_text("second")
    now[0] = FRESH_SECONDS - 1
    assert await token(connector) == "bearer first"
    now[0] = FRESH_SECONDS
    assert await token(connector) == "bearer second"
    assert await connector.client() is before
    await connector.close()


async def test_a_token_that_was_refused_is_read_again_soon_but_not_with_every_call(account):
    now = [100.0]
    connector = Connector(Login(IN_CLUSTER, account), lambda: now[0])
    await connector.client()
    (account / "token").write_text("second")
    connector.refused()
    assert await token(connector) == "bearer first"
    now[0] += REFUSED_SECONDS
    assert await token(connector) == "bearer second"
    await connector.close()


async def test_credentials_that_cannot_be_renewed_are_used_on(account, caplog):
    now = [0.0]
    connector = Connector(Login(IN_CLUSTER, account), lambda: now[0])
    await connector.client()
    (account / "token").write_text("")
    now[0] = FRESH_SECONDS
    assert await token(connector) == "bearer first"
    assert "the old credentials are used on" in caplog.text
    await connector.close()


async def test_kopf_gets_a_renewed_token_and_sees_when_a_token_is_the_one_that_was_refused(account):
    login = Login(IN_CLUSTER, account)
    first = await login.for_watches()
    assert first.expiration > datetime.now(UTC)
    assert await login.for_watches() == first
    (account / "token").write_text("second")
    assert (await login.for_watches()).token == "second"


async def test_kopf_logs_in_with_it_and_tries_again_soon(account):
    login = Login(IN_CLUSTER, account)
    made = handlers.registry(lambda key: None, lambda plural: None, login.for_watches)
    (found,) = made._activities.get_handlers(Activity.AUTHENTICATION)
    assert (await found.fn()).token == "first"
    assert found.backoff == 5


async def test_an_exec_plugin_logs_in_the_calls_and_the_watches(tmp_path, authority):
    user = plugin(tmp_path, prints_token(timedelta(hours=1)))
    login = Login(kubeconfig(tmp_path / "config", user, **{"certificate-authority": "ca.crt"}))
    connector = Connector(login)
    assert await token(connector) == "Bearer get-1"
    info = await login.for_watches()
    assert info.as_http_headers() == {"Authorization": "Bearer get-2"}
    assert info.ca_path == str(authority)
    await connector.close()


def test_a_plugin_also_runs_in_the_thread_of_the_watches(tmp_path):
    environment = kubeconfig(tmp_path / "config", plugin(tmp_path, prints_token(timedelta(hours=1))))
    with ThreadPoolExecutor(1) as thread:
        info = thread.submit(lambda: asyncio.run(Login(environment).for_watches())).result(20)
    assert info.token == "get-1"


async def test_a_plugin_runs_again_when_its_token_ends_or_is_refused_and_not_before(tmp_path):
    now = [0.0]
    user = plugin(tmp_path, prints_token(timedelta(hours=1)))
    connector = Connector(Login(kubeconfig(tmp_path / "config", user)), lambda: now[0])
    for _ in range(3):
        assert await token(connector) == "Bearer get-1"
        now[0] += FRESH_SECONDS
    connector.refused()
    assert await token(connector) == "Bearer get-2"
    plugin(tmp_path, prints_token(timedelta(minutes=1)))
    connector.refused()
    now[0] += FRESH_SECONDS
    assert await token(connector) == "Bearer get-3"
    now[0] += FRESH_SECONDS
    assert await token(connector) == "Bearer get-4"
    assert runs(tmp_path) == 4
    await connector.close()


@pytest.mark.parametrize("body", ["sys.exit('no browser')", "print('{}')", "print('hello')"])
async def test_a_plugin_that_fails_is_no_login(tmp_path, body):
    login = Login(kubeconfig(tmp_path / "config", plugin(tmp_path, body)))
    with pytest.raises(LoginError, match="neither token nor certificate; if it names an exec plugin"):
        await login.read()


async def test_a_plugin_that_waits_for_somebody_holds_nobody_up_and_runs_once(tmp_path):
    wait = f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n"
    user = plugin(tmp_path, wait + prints_token(timedelta(hours=1)))
    login = Login(kubeconfig(tmp_path / "config", user), seconds=0.5)
    for _ in range(3):
        with pytest.raises(LoginError, match=r"longer than 0\.5 s: is an exec plugin waiting"):
            await login.read()
    (tmp_path / "go").touch()
    assert (await eventually(login)).api_key == {"BearerToken": "Bearer get-1"}
    assert runs(tmp_path) == 1


async def test_a_plugin_that_is_not_there_is_no_login(tmp_path):
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(tmp_path / "none")}}
    with pytest.raises(LoginError):
        await Login(kubeconfig(tmp_path / "config", user)).read()


async def test_a_kubeconfig_may_hold_a_token_a_password_or_nothing_for_a_proxy_on_this_machine(tmp_path):
    config = tmp_path / "config"
    for user, server, header in [
        ({"token": "t"}, SERVER, {"Authorization": "Bearer t"}),
        ({"username": "a", "password": "b"}, SERVER, {"Authorization": "Basic YTpi"}),
        ({}, "http://127.0.0.1:8001", {}),
    ]:
        info = await Login(kubeconfig(config, user, server)).for_watches()
        assert (info.server, info.as_http_headers()) == (server, header)


async def test_a_token_file_of_a_kubeconfig_is_read_again(tmp_path):
    now = [0.0]
    (tmp_path / "t").write_text("first")
    login = Login(kubeconfig(tmp_path / "config", {"tokenFile": "t"}))
    connector = Connector(login, lambda: now[0])
    assert await token(connector) == "Bearer first"
    (tmp_path / "t").write_text("second")
    now[0] = FRESH_SECONDS
    assert await token(connector) == "Bearer second"
    await connector.close()


async def test_other_certificates_make_a_new_client_and_the_old_one_ends_its_calls(account, tmp_path):
    now = [0.0]
    environment = dict(IN_CLUSTER)
    connector = Connector(Login(environment, account), lambda: now[0])
    before = await connector.client()
    environment["KUBERNETES_SERVICE_HOST"] = "10.0.0.2"
    now[0] = FRESH_SECONDS
    after = await connector.client()
    assert after is not before
    assert after.configuration.host == "https://10.0.0.2:443"
    await connector.close()


async def test_a_proxy_and_a_server_that_is_not_checked_hold_for_both(tmp_path):
    cluster = {"proxy-url": "http://proxy:3128", "insecure-skip-tls-verify": True}
    login = Login(kubeconfig(tmp_path / "config", {"token": "t"}, **cluster))
    info, configuration = await login.for_watches(), await login.read()
    assert (info.proxy_url, info.insecure) == ("http://proxy:3128", True)
    assert (configuration.proxy, configuration.verify_ssl) == ("http://proxy:3128", False)


async def test_a_ca_that_is_none_is_said_with_its_server(account):
    (account / "ca.crt").write_text("none")
    with pytest.raises(LoginError, match=r"certificates for the Kubernetes API at https://\[fd00::1\]:443"):
        await Connector(Login(IN_CLUSTER, account)).client()


@pytest.mark.parametrize("text", ["{", "", "[]", "current-context: c\n", "current-context: c\ncontexts: 3\n"])
async def test_a_file_that_is_no_kubeconfig_is_said(tmp_path, text):
    (tmp_path / "config").write_text(text)
    with pytest.raises(LoginError, match="cannot be read"):
        await Login({"KUBECONFIG": str(tmp_path / "config")}).read()


@pytest.mark.parametrize("paths", [None, "", os.pathsep, "/nowhere"])
async def test_without_credentials_the_operator_says_what_it_looked_for(tmp_path, paths):
    environment = {"HOME": str(tmp_path)} | ({} if paths is None else {"KUBECONFIG": paths})
    with pytest.raises(LoginError, match="neither a service account nor KUBECONFIG"):
        await Login(environment).read()
