"""Where a demo runs: a cluster, a namespace in it and a bucket, whoever made them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from demo.bucket import Bucket
from demo.kubectl import Kubectl, KubectlError
from mochi_api import identity

NAMESPACE = "mochi-demo"
OPERATOR_NAMESPACE = "mochi-system"
SECRET = "mochi-s3"  # noqa: S105  # the name of a Secret
CLIPS = "clips"
"""Prefix of the clips in the bucket; the examples name it."""


class SiteError(Exception):
    """The cluster lacks something; the message has one line for each thing and how to get it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A cluster that is ready for a MochiFineTune."""

    kubectl: Kubectl
    """In the namespace of the run."""
    bucket: Bucket
    endpoint: str
    """Address of S3 as the pods see it; empty: AWS."""
    operator_namespace: str = OPERATOR_NAMESPACE
    look_around: tuple[str, ...] = field(default=())
    """What to type to look around in it while it is kept."""
    stop: str = ""
    """What to type to stop it when it is kept."""


_NEEDED = {
    "pytorchjobs.kubeflow.org": "install the Kubeflow training operator 1.9",
    f"{identity.PLURAL}.{identity.GROUP}": "install the operator: docs/how-to/install.md",
}


def current(
    *, namespace: str, bucket: str, s3_endpoint: str, pod_endpoint: str, binary: str = "kubectl"
) -> Site:
    """The cluster of the user's current kubeconfig context, where everything must exist already.

    Credentials for the bucket come from `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Raises SiteError with all that
    is missing.
    """
    kubectl = Kubectl(binary=binary, kubeconfig=None, namespace=namespace)
    access, secret = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    missing = [] if bucket else ["--bucket BUCKET: a bucket the pods and this machine can use"]
    if not (access and secret):
        missing.append("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, to upload the clips")
    missing += _absent(kubectl, namespace)
    if missing:
        raise SiteError("the demo cannot run in the current cluster; it lacks\n  " + "\n  ".join(missing))
    return Site(
        kubectl=kubectl,
        bucket=Bucket(name=bucket, endpoint=s3_endpoint, access_key=access, secret_key=secret),
        endpoint=pod_endpoint or s3_endpoint,
    )


def _absent(kubectl: Kubectl, namespace: str) -> list[str]:
    wanted = {("crd", name): f"CRD {name}: {hint}" for name, hint in _NEEDED.items()}
    wanted["namespace", namespace] = f"namespace {namespace}: kubectl create namespace {namespace}"
    wanted["secret", SECRET] = (
        f"secret {SECRET} in {namespace}: kubectl -n {namespace} create secret generic {SECRET} "
        "--from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=..."
    )
    missing = []
    for (kind, name), hint in wanted.items():
        try:
            kubectl.run("get", kind, name, "-o", "name", seconds=15)
        except KubectlError as error:
            if "NotFound" not in str(error):
                return [f"a cluster that answers: {error}"]
            missing.append(hint)
    return missing
