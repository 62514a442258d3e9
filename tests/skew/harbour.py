"""A real control plane in which either version of the operator can be installed, with many runs at once."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo import clips, devsite, images, install
from demo.kubectl import Kubectl
from demo.sites import NAMESPACE, OPERATOR_NAMESPACE, SECRET, Site
from devcluster import cluster
from mochi_api.identity import API_VERSION, GROUP, KIND, PLURAL
from tests.skew.pinned import Checkout

Document = dict[str, Any]
RESOURCE = f"{PLURAL}.{GROUP}"
STANDIN = "mochi-standin"
"""Image of the trainer that follows orders."""
WAIT_SECONDS = 600.0
HELM_SECONDS = 300
POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod, as far as a restart would show."""

    name: str
    uid: str
    restarts: int
    going: bool
    """Whether it is being deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """All runs and their unfinished pods at one time; runs by name."""

    statuses: Mapping[str, Document]
    pods: Mapping[str, frozenset[Pod]]

    def phase(self, run: str) -> str:
        """The phase of a run, empty before it has one."""
        return str(self.statuses.get(run, {}).get("phase", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of the product, and what its images are called here."""

    checkout: Checkout
    operator: str
    trainer: str

    def values(self) -> Document:
        """Values of its chart."""
        return {
            "image": {"repository": self.operator},
            "trainerImage": {"repository": self.trainer},
            "progressSeconds": 2,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Harbour:
    """The running system."""

    cluster: cluster.Cluster
    site: Site
    old: Version
    new: Version
    orders: Path
    seen: dict[str, list[str]] = field(default_factory=dict)
    """Phases of each run in the order in which they were seen, each once in a row."""

    @property
    def kubectl(self) -> Kubectl:
        return self.site.kubectl

    def order(self, run: str, step: str, attempt: int, text: str) -> None:
        """What the stand-in trainer does there."""
        path = self.orders / f"{run}.{step}.{attempt}"
        fresh = path.with_suffix(".next")
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(path)  # whole or not at all

    def apply(self, specs: Mapping[str, Document]) -> None:
        """Submit runs by name, all at once."""
        self.kubectl.apply(
            *(
                {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}
                for name, spec in specs.items()
            )
        )

    def end_soon(self, *runs: str) -> None:
        """Give runs that wait for what never comes a deadline that is over."""
        patch = json.dumps({"spec": {"runPolicy": {"activeDeadlineSeconds": 1}}})
        for name in runs:
            self.kubectl.run("patch", RESOURCE, name, "--type=merge", "-p", patch)

    def look(self) -> Moment:
        """Everything now."""
        items = self.kubectl.json("get", f"{RESOURCE},pods")["items"]
        runs, pods = ([item for item in items if item["kind"] == kind] for kind in (KIND, "Pod"))
        found: dict[str, set[Pod]] = {}
        for raw in pods:
            if raw.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                found.setdefault(raw["metadata"]["labels"][f"{GROUP}/finetune"], set()).add(_pod(raw))
        moment = Moment(
            statuses={raw["metadata"]["name"]: raw.get("status", {}) for raw in runs},
            pods={name: frozenset(found.get(name, ())) for name in (raw["metadata"]["name"] for raw in runs)},
        )
        for name in moment.statuses:
            seen = self.seen.setdefault(name, [])
            if not seen or seen[-1] != moment.phase(name):
                seen.append(moment.phase(name))
        return moment

    def until(self, holds: Callable[[Moment], str], seconds: float = WAIT_SECONDS) -> Moment:
        """The first moment at which nothing is missing: `holds` says what still is."""
        end = time.monotonic() + seconds
        while missing := holds(moment := self.look()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:.0f} s: {missing}\n{self.evidence()}")
            time.sleep(POLL_SECONDS)
        return moment

    def helm(self, *args: str, stdin: str = "") -> None:
        """Run helm to its end, and keep looking at the runs meanwhile."""
        command = [
            str(self.cluster.helm), f"--kubeconfig={self.cluster.kubeconfig}", f"--namespace={OPERATOR_NAMESPACE}",
            *args, "--wait", f"--timeout={HELM_SECONDS}s",
        ]  # fmt: skip
        end = time.monotonic() + HELM_SECONDS + 15
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.cluster.env(),
        )  # fmt: skip
        try:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.close()
            process.stdin = None
            while process.poll() is None and time.monotonic() < end:
                self.look()
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            said = process.communicate()[0]
        assert process.returncode == 0, f"helm {' '.join(args)}: {said}\n{self.evidence()}"

    def install(self, version: Version) -> None:
        """`helm install` of a version, into a cluster that knows no runs yet."""
        chart = version.checkout.root / "helm" / "mochi-operator"
        operator = self.kubectl.within(OPERATOR_NAMESPACE)
        install.operator(operator, str(self.cluster.helm), chart, version.values(), seconds=HELM_SECONDS)

    def apply_crd(self, version: Version) -> None:
        """The CRD alone, as who keeps CRDs apart from the chart does it first; every run is then looked at anew."""
        crd = version.checkout.root / "helm" / "mochi-operator" / "files" / "mochifinetunes.yaml"
        self.kubectl.run("apply", "--server-side", "--force-conflicts", "-f", str(crd))
        self.kubectl.run("annotate", RESOURCE, "--all", "--overwrite", "skew/crd=new")

    def upgrade(self, to: Version) -> None:
        """`helm upgrade` to a version."""
        chart = to.checkout.root / "helm" / "mochi-operator"
        self.helm(
            "upgrade", "--install", install.RELEASE, str(chart), "--values=-", stdin=json.dumps(to.values())
        )

    def rollback(self) -> None:
        """`helm rollback` to the release before."""
        self.helm("rollback", install.RELEASE)

    def evidence(self) -> str:
        """What a person would look at."""
        operator = self.kubectl.within(OPERATOR_NAMESPACE)
        said = [
            self.kubectl.run("get", RESOURCE),
            self.kubectl.run("get", "jobs,pytorchjobs,pods", "-o", "wide"),
            install.pods_say(operator, lines=40),
        ]
        return "\n".join(said)


def _pod(raw: Document) -> Pod:
    told = raw.get("status", {}).get("containerStatuses", ())
    return Pod(
        name=raw["metadata"]["name"],
        uid=raw["metadata"]["uid"],
        restarts=sum(item.get("restartCount", 0) for item in told),
        going="deletionTimestamp" in raw["metadata"],
    )


@contextmanager
def opened(project: Path, pinned: Checkout, folder: Path) -> Iterator[Harbour]:
    """The control plane, the storage secret, the clips; no operator yet."""
    old = Version(checkout=pinned, operator="mochi-operator-before", trainer="mochi-trainer-before")
    new = Version(checkout=Checkout(root=project), operator=images.OPERATOR, trainer=images.TRAINER)
    orders = folder / "orders"
    orders.mkdir(parents=True)
    table = folder / "images.json"
    table.write_text(json.dumps({**_images(old), **_images(new), STANDIN: _standin(new, orders)}))
    with cluster.running(cluster.Config(name="skew", dir=folder / "cluster", images=table)) as found:
        kubectl = Kubectl(
            binary=str(found.kubectl), kubeconfig=found.kubeconfig, namespace=NAMESPACE, env=found.env()
        )
        kubectl.apply(install.namespace(NAMESPACE), install.namespace(OPERATOR_NAMESPACE))
        kubectl.apply(install.storage_secret(SECRET, found.s3.access_key, found.s3.secret_key))
        site = devsite.site(found, kubectl)
        site.bucket.create()
        clips.upload(site.bucket, "clips", clips.bundled())
        yield Harbour(cluster=found, site=site, old=old, new=new, orders=orders)


def _images(version: Version) -> Document:
    """The two images of a version: its own packages, run by the one environment."""
    own = images.table(version.checkout.root)
    path = version.checkout.env()["PYTHONPATH"]
    return {
        name: {**own[image], "env": {**own[image]["env"], "PYTHONPATH": path}}
        for name, image in ((version.operator, images.OPERATOR), (version.trainer, images.TRAINER))
    }


def _standin(version: Version, orders: Path) -> Document:
    own = images.table(version.checkout.root)[images.TRAINER]
    here = Path(__file__).parent / "standin"
    env = {**own["env"], "PYTHONPATH": str(here), "MOCHI_STANDIN_ORDERS": str(orders)}
    return {**own, "env": env, "visible": [*own["visible"], str(orders)]}
