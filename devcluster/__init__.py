"""A real Kubernetes control plane, an S3 server and a node agent as ordinary processes of one Linux machine."""
