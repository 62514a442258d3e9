"""Group, version, names and labels of the custom resource and of everything made for it."""

from __future__ import annotations

GROUP = "mochi.finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "MochiFineTune"
PLURAL = "mochifinetunes"
SINGULAR = "mochifinetune"
SHORT_NAME = "mft"

LABEL_FINETUNE = f"{GROUP}/finetune"
"""Name of the MochiFineTune an object belongs to."""
LABEL_UID = f"{GROUP}/uid"
"""Uid of that MochiFineTune; another one of the same name may have been there before."""
LABEL_STAGE = f"{GROUP}/stage"
"""check, trim, captions, videos, train, sample or preview."""
LABEL_ATTEMPT = f"{GROUP}/attempt"
"""Number of the step's attempt, from 1."""

ANNOTATION_SAMPLE_NOW = f"{GROUP}/sample-now"
"""On a MochiFineTune: each new value asks for sample videos from the newest checkpoint of the training, at once."""
SAMPLE_NOW_LENGTH = 63
"""Characters of such a value that count."""

TRAINING_CONTAINER = "pytorch"
"""Name of a training pod's container; PyTorchJob asks for it."""
STAGE_CONTAINER = "mochi-trainer"
"""Name of the container of a stage's pod."""
METRICS_PORT_NAME = "metrics"

SHARD_ENV = "JOB_COMPLETION_INDEX"
"""Number of a pod of an Indexed Job, from 0; Kubernetes sets it."""
POD_IP_ENV = "MOCHI_POD_IP"
"""Address the trainer serves `/metrics` and `/progress` on; empty: all addresses."""
IMAGE_ENV = "MOCHI_IMAGE"
"""Image of the pod, for the report."""
CA_ENV = "AWS_CA_BUNDLE"
"""File with certificates to trust besides the public ones; other tools of AWS, and older images, trust it alone."""
METRICS_PORT_ENV = "MOCHI_METRICS_PORT"
"""Port of `/metrics` and `/progress`, where several trainers share a machine; pods have the usual one."""
CREDENTIALS_ENV = "MOCHI_S3_CREDENTIALS"
"""Folder with the keys of S3 as files, which are renewed with their Secret; empty: the environment, or the pod's identity."""

KEYS_ENV = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Keys of S3, from the Secret that `storage.s3.credentialsSecretName` names."""
OWN_ENV = (
    "HOME", "USER", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    SHARD_ENV, POD_IP_ENV, IMAGE_ENV, METRICS_PORT_ENV, CA_ENV, CREDENTIALS_ENV, *KEYS_ENV,
)  # fmt: skip
"""Environment variables of a pod that are not the user's, and all that begin with `OWN_ENV_PREFIX`."""
OWN_ENV_PREFIX = "PET_"
