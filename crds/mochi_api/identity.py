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
"""check, trim, captions, videos, train or sample."""
LABEL_ATTEMPT = f"{GROUP}/attempt"
"""Number of the step's attempt, from 1."""

TRAINING_CONTAINER = "pytorch"
"""Name of a training pod's container; PyTorchJob asks for it."""
STAGE_CONTAINER = "mochi-trainer"
"""Name of the container of a stage's pod."""
METRICS_PORT_NAME = "metrics"

POD_IP_ENV = "MOCHI_POD_IP"
"""Address the trainer serves `/metrics` and `/progress` on; empty: all addresses."""
IMAGE_ENV = "MOCHI_IMAGE"
"""Image of the pod, for the report."""
