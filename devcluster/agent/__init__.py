"""A node agent: plays the kubelet for the local control plane and runs bound pods as processes of this machine."""
