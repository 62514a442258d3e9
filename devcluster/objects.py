"""What every cluster holds from the start: namespaces, the S3 Service, and the training operator's webhook. Pure."""

from __future__ import annotations

from typing import Any

from devcluster.addresses import Addresses

Manifest = dict[str, Any]

NAMESPACE = "devcluster"
OPERATOR_NAMESPACE = "kubeflow"
OPERATOR_SERVICE = "training-operator"
WEBHOOK_SECRET = "training-operator-webhook-cert"  # noqa: S105 - the object's name
WEBHOOK = "validator.training-operator.kubeflow.org"


def paths(addresses: Addresses) -> list[tuple[str, Manifest]]:
    """API path and object, in the order to apply them."""
    webhooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    kubeflow = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}"
    return [
        (f"/api/v1/namespaces/{NAMESPACE}", namespace(NAMESPACE)),
        (f"/api/v1/namespaces/{NAMESPACE}/services/s3", external_service("s3", NAMESPACE, addresses.s3.host)),
        (kubeflow, namespace(OPERATOR_NAMESPACE)),
        (f"{kubeflow}/secrets/{WEBHOOK_SECRET}", webhook_secret()),
        (
            f"{kubeflow}/services/{OPERATOR_SERVICE}",
            external_service(OPERATOR_SERVICE, OPERATOR_NAMESPACE, addresses.webhook.host),
        ),
        (f"{webhooks}/{WEBHOOK}", webhook(addresses.webhook.port)),
    ]


def namespace(name: str) -> Manifest:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def external_service(name: str, where: str, address: str) -> Manifest:
    """A Service whose name stands for one loopback address.

    The API refuses loopback addresses in EndpointSlices; an external name that is an address is accepted, by the
    API server's own webhook calls too, and the node agent writes it to the pods' hosts files.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": where},
        "spec": {"type": "ExternalName", "externalName": address},
    }


def webhook_secret() -> Manifest:
    """The empty Secret that the training operator fills with its certificates."""
    metadata = {"name": WEBHOOK_SECRET, "namespace": OPERATOR_NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


def webhook(port: int) -> Manifest:
    """The training operator's validation of PyTorchJobs; it fills in the certificate authority itself."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK},
        "webhooks": [
            {
                "name": "validator.pytorchjob.training-operator.kubeflow.org",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {
                    "service": {
                        "name": OPERATOR_SERVICE,
                        "namespace": OPERATOR_NAMESPACE,
                        "path": "/validate-kubeflow-org-v1-pytorchjob",
                        "port": port,
                    }
                },
                "failurePolicy": "Fail",
                "rules": [
                    {
                        "apiGroups": ["kubeflow.org"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["pytorchjobs"],
                    }
                ],
                "sideEffects": "None",
            }
        ],
    }


def refused_job() -> Manifest:
    """A PyTorchJob that the schema allows and the webhook refuses: its container has no image."""
    template = {"spec": {"containers": [{"name": "pytorch"}]}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "devcluster-probe", "namespace": NAMESPACE},
        "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": template}}},
    }
