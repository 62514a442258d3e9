"""The order in which a cluster comes up, and how each part is known to work."""

from __future__ import annotations

import base64
import functools
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from devcluster import credentials, objects, parts
from devcluster.agent.api import Api, ApiError, read_kubeconfig
from devcluster.binaries import PYTORCHJOB_CRD
from devcluster.parts import Layout, Program
from devcluster.state import RESTARTS, S3

LIMIT = 90.0
"""Seconds each part may take; most need one or two, the API server five."""
POLL_SECONDS = 0.1
APPLY_TYPE = "application/apply-patch+yaml"
_JOBS = f"/apis/kubeflow.org/v1/namespaces/{objects.NAMESPACE}/pytorchjobs"


class PartError(Exception):
    """A part ended or did not get ready."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


class Bringup:
    """One start of one cluster."""

    def __init__(
        self,
        layout: Layout,
        *,
        start: Callable[[Program], None],
        check: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._at = layout
        self._start = start
        self._check = check
        self._say = say
        self._tokens = credentials.tokens()
        self.s3 = S3(
            endpoint=f"http://{layout.addresses.s3}",
            pod_endpoint=f"http://s3.{objects.NAMESPACE}.svc:{layout.addresses.s3.port}",
            access_key=secrets.token_hex(10),
            secret_key=secrets.token_urlsafe(30),
        )

    def run(self) -> None:
        """Start everything and wait until it works. Raises `PartError`."""
        self._write_files()
        self._start(parts.etcd(self._at))
        self._start(parts.apiserver(self._at))
        self._start(parts.s3(self._at, self.s3.access_key, self.s3.secret_key))
        self._wait("kube-apiserver", self._apiserver_ready)
        self._say(f"the API server answers at {self._at.addresses.apiserver}")
        self._api = self._connect()
        self._apply_objects()
        self._start(
            parts.training_operator(self._at)
        )  # first: it looks for its certificates every few seconds
        self._start(parts.controller_manager(self._at))
        self._start(parts.scheduler(self._at))
        for number in range(self._at.nodes):
            self._start(parts.agent(self._at, number))
        self._wait("training-operator", self._certificates_copied)
        self._wait("s3", lambda: answers(f"{self.s3.endpoint}/health"))
        self._wait(
            "kube-controller-manager",
            lambda: self._exists("/api/v1/namespaces/default/serviceaccounts/default"),
        )
        self._wait("kube-scheduler", lambda: answers(f"https://{self._at.addresses.scheduler}/healthz"))
        names = [parts.node_name(number) for number in range(self._at.nodes)]
        for number, name in enumerate(names):
            self._wait(parts.agent_name(number), functools.partial(self._node_ready, name))
        self._say(f"controllers, scheduler and S3 server work; ready: {', '.join(names)}")
        self._wait("training-operator", self._webhook_refuses)
        self._say("the training operator validates PyTorchJobs")

    def _write_files(self) -> None:
        agents = [parts.agent_name(number) for number in range(self._at.nodes)]
        for name in ("etcd", "s3/attributes", "s3/data", "training-operator", "logs", RESTARTS, *agents):
            (self._at.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        credentials.write_private(
            Path(self._at.path("pki", "service-accounts.key")), credentials.signing_key()
        )
        tokens = credentials.token_file(self._tokens)
        credentials.write_private(Path(self._at.path("credentials", "tokens.csv")), tokens)

    def _wait(self, part: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        why = ""
        while True:
            self._check()
            try:
                if ready():
                    return
            except (ApiError, OSError) as error:
                why = f" ({error})"
            if time.monotonic() > deadline:
                raise PartError(part, f"is not ready after {LIMIT:.0f} s{why}")
            time.sleep(POLL_SECONDS)

    def _connect(self) -> Api:
        """Write the kubeconfigs, now that the API server has made its certificate."""
        ca = Path(self._at.path("pki", "apiserver.crt")).read_bytes()
        server = f"https://{self._at.addresses.apiserver}"
        name = f"devcluster-{self._at.folder.name}"
        for user, token in self._tokens.items():
            text = credentials.kubeconfig(server, ca, token, name=name)
            credentials.write_private(Path(self._at.credentials(user)), text)
        admin = Path(self._at.credentials("admin"))
        credentials.write_private(self._at.folder / "kubeconfig", admin.read_text())
        credentials.write_private(
            Path(self._at.path("training-operator", "kubeconfig")),
            Path(self._at.credentials("training-operator")).read_text(),
        )
        return Api(read_kubeconfig(admin))

    def _apiserver_ready(self) -> bool:
        """Anonymous requests are let through only once the RBAC defaults are there."""
        return answers(f"https://{self._at.addresses.apiserver}/readyz")

    def _exists(self, path: str) -> bool:
        return self._api.find(path) is not None

    def _apply_objects(self) -> None:
        crd = yaml.load(Path(self._at.binaries[PYTORCHJOB_CRD]).read_text(), _LOADER)  # noqa: S506 - a safe loader
        name = crd["metadata"]["name"]
        self._apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", crd)
        for path, manifest in objects.paths(self._at.addresses):
            self._apply(path, manifest)

    def _apply(self, path: str, manifest: dict[str, Any]) -> None:
        query = {"fieldManager": "devcluster", "force": "true"}
        try:
            self._api.request("PATCH", path, manifest, content_type=APPLY_TYPE, query=query)
        except (ApiError, OSError) as error:
            raise PartError("kube-apiserver", f"did not take {path}: {error}") from error

    def _node_ready(self, name: str) -> bool:
        node = self._api.find(f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", ()) if node else ()
        return any((item["type"], item["status"]) == ("Ready", "True") for item in conditions)

    def _certificates_copied(self) -> bool:
        """Put the certificates that the training operator made where it waits for them."""
        path = f"/api/v1/namespaces/{objects.OPERATOR_NAMESPACE}/secrets/{objects.WEBHOOK_SECRET}"
        data = (self._api.find(path) or {}).get("data") or {}
        if not {"ca.crt", "tls.crt", "tls.key"} <= data.keys():
            return False
        folder = Path(self._at.path("training-operator", "k8s-webhook-server", "serving-certs"))
        for name in ("ca.crt", "tls.key", "tls.crt"):  # the training operator looks for the last one
            credentials.write_private(folder / name, base64.b64decode(data[name]).decode())
        return True

    def _webhook_refuses(self) -> bool:
        """Whether a dry run of a bad PyTorchJob is refused, by the webhook and nothing else."""
        try:
            self._api.request("POST", _JOBS, objects.refused_job(), query={"dryRun": "All"})
        except ApiError as error:
            return "image: Required value" in str(error)
        return False


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 600 kB: 0.3 s instead of 3


def answers(url: str) -> bool:
    """Whether `url` answers 200 within two seconds; nothing secret is sent, so TLS is not verified."""
    context = ssl._create_unverified_context()  # noqa: S323
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
