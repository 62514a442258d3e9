"""The operator of MochiFineTune: it turns one custom resource into Jobs, a PyTorchJob, and a status."""

VERSION = "0.1.0"
