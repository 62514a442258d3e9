"""The dev cluster as a site: started, the operator installed with Helm, and ended whatever happens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from demo import images, install
from demo.bucket import Bucket
from demo.deadline import Deadline
from demo.kubectl import Kubectl
from demo.sites import NAMESPACE, OPERATOR_NAMESPACE, SECRET, Site
from demo.steps import Steps
from devcluster import cluster
from mochi_api import identity

NAME = "demo"
"""Name of the dev cluster: there is at most one for demos."""
BUCKET = "demo"
GPU = "nvidia.com/gpu"
GPUS = 8
"""GPUs that the node says it has, without any: pods that ask for some are placed, and nano is content with the CPU."""
VALUES: dict[str, Any] = {
    "image": {"repository": images.OPERATOR},
    "trainerImage": {"repository": images.TRAINER},
    "progressSeconds": 2,
}
"""Values of the chart: the two names of the image table, and a status that is written often enough to watch."""


@contextmanager
def image_file(root: Path) -> Iterator[Path]:
    """The image table as a file, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="mochi-demo-") as folder:
        path = Path(folder) / "images.json"
        path.write_text(json.dumps(images.table(root)))
        yield path


@contextmanager
def started(root: Path, steps: Steps, *, keep: bool) -> Iterator[cluster.Cluster]:
    """The demo's cluster, a kept one if it runs. Afterwards it is ended: unless `keep`, and always when interrupted."""
    with ExitStack() as stack:
        config = cluster.Config(
            name=NAME, images=stack.enter_context(image_file(root)), capacity=f"{GPU}={GPUS}"
        )
        with steps.step("control plane, training operator and S3 on loopback") as say:
            found = cluster.up(config, say) if keep else stack.enter_context(cluster.running(config, say))
        try:
            yield found
        except Exception:
            raise
        except BaseException:
            cluster.down(config.folder)
            raise


@contextmanager
def dev(root: Path, deadline: Deadline, steps: Steps, *, keep: bool) -> Iterator[Site]:
    """The dev cluster with the operator in it, ready for a MochiFineTune."""
    with started(root, steps, keep=keep) as found:
        yield prepare(found, root, deadline, steps)


def prepare(found: cluster.Cluster, root: Path, deadline: Deadline, steps: Steps) -> Site:
    """Namespaces, the storage secret, and the operator by `helm install`."""
    kubectl = Kubectl(
        binary=str(found.kubectl), kubeconfig=found.kubeconfig, namespace=NAMESPACE, env=found.env()
    )
    with steps.step("namespaces that admit only restricted pods, and the storage secret"):
        kubectl.apply(install.namespace(NAMESPACE), install.namespace(OPERATOR_NAMESPACE))
        kubectl.apply(install.storage_secret(SECRET, found.s3.access_key, found.s3.secret_key))
    with steps.step("helm install mochi-operator helm/mochi-operator"):
        install.operator(
            kubectl.within(OPERATOR_NAMESPACE), str(found.helm), root / "helm" / "mochi-operator", VALUES,
            seconds=deadline.left("helm install", 120),
        )  # fmt: skip
    return site(found, kubectl)


def site(found: cluster.Cluster, kubectl: Kubectl) -> Site:
    """The cluster as the rest of the demo sees it."""
    return Site(
        kubectl=kubectl,
        bucket=Bucket(
            name=BUCKET, endpoint=found.s3.endpoint, access_key=found.s3.access_key, secret_key=found.s3.secret_key,
            region=found.s3.region,
        ),
        endpoint=found.s3.pod_endpoint,
        look_around=(
            f"export KUBECONFIG={found.kubeconfig} PATH={found.kubectl.parent}:$PATH",
            f"kubectl -n {NAMESPACE} get mft,jobs,pytorchjobs,pods",
            f"kubectl -n {NAMESPACE} describe mft",
            f"kubectl -n {NAMESPACE} logs -l {identity.LABEL_FINETUNE} --prefix",
            f"kubectl -n {OPERATOR_NAMESPACE} logs deployment/{install.RELEASE}",
            f"{found.helm} -n {OPERATOR_NAMESPACE} list",
        ),
        stop=".venv/bin/python -m demo stop",
    )  # fmt: skip


def stop() -> bool:
    """End a kept cluster, and what a crash has left of one; tell whether there was any."""
    return cluster.down(cluster.Config(name=NAME).folder)
