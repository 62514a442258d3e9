"""Everything a container of a pod needs before it starts: image, volumes, environment, hosts file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster.agent import cluster, launch
from devcluster.agent.env import Context, container_env
from devcluster.agent.host import Host
from devcluster.agent.hosts import Endpoint
from devcluster.agent.shim import Request
from devcluster.agent.status import Address
from devcluster.agent.volumes import (
    PodVolumes,
    VolumeError,
    agent_written,
    as_user,
    claim_volumes,
    container_mounts,
    fs_group,
)

log = logging.getLogger(__name__)
ROOT = 0
VOLUME_REFRESH = 60.0
"""Seconds between renewals of tokens and of mounted ConfigMaps and Secrets, as a kubelet has it (`syncFrequency`)."""


@dataclass(slots=True)
class Preparation:
    """Makes and renews the files of one pod."""

    host: Host
    folder: launch.PodFolder
    where: Address
    namespace: cluster.Namespace
    _renewed_at: float = 0.0
    _metadata: tuple[Any, ...] = field(default=())

    def write_etc(self, pod: Mapping[str, Any]) -> None:
        """The files of /etc that do not change while the pod lives."""
        self.folder.etc("hostname").parent.mkdir(parents=True, exist_ok=True)
        self.folder.etc("hostname").write_text(launch.hostname(pod) + "\n")
        try:
            resolver = Path("/etc/resolv.conf").read_bytes()
        except OSError:
            resolver = b""
        self.folder.etc("resolv.conf").write_bytes(resolver)

    def write_hosts(self, viewer: Endpoint, pod: Mapping[str, Any]) -> None:
        """Bring /etc/hosts up to date; the file is mounted in containers, so it is written in place."""
        path = self.folder.etc("hosts")
        content = self.host.hosts_file(viewer, pod).encode()
        if path.exists() and path.read_bytes() == content:
            return
        with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
            file.write(content)
            file.truncate()

    def request(self, pod: Mapping[str, Any], spec: Mapping[str, Any], number: int) -> Request:
        """The request for one attempt of container `spec`.

        Raises `ImageError`, `ConfigError`, `VolumeError`, `ExhaustedError`, `ApiError` or `OSError`.
        """
        host = self.host
        image = host.images.find(spec.get("image", ""))
        paths = self._volumes(pod).paths()
        access = host.api.access
        own = container_env(spec, self._context(pod), launch.service_env(access.host, access.port))
        variables = launch.image_env(image, pod) | own
        gpus = launch.gpu_count(spec)
        if gpus:
            holder = (pod["metadata"]["uid"], spec["name"])
            variables["NVIDIA_VISIBLE_DEVICES"] = ",".join(host.gpus.take(holder, gpus))
        mounts = container_mounts(spec, paths, variables, agent_written(pod))
        if launch.identity(pod, spec, image)[0] != ROOT:
            claims = [paths[name] for name in claim_volumes(pod)]
            mounts = as_user(mounts, claims, group=fs_group(pod), closed=self._closed_folder())
        return launch.request(
            pod,
            spec,
            image,
            variables,
            mounts=mounts,
            folder=self.folder,
            number=number,
            hidden=host.state,
            pod_ip=self.where.pod_ip,
            shared_ports=[access.port] if access.host in ("127.0.0.1", "localhost") else [],
        )

    def _closed_folder(self) -> str:
        """One for all pods, beside their folders: the agent's own user could not look into it either, to delete it."""
        path = self.host.state / "closed"
        path.mkdir(mode=0o000, exist_ok=True)
        return str(path)

    def renew(self, pod: Mapping[str, Any], now: float) -> None:
        """Renew volumes of running containers: now and then, and when the pod's labels or annotations change."""
        metadata = (pod["metadata"].get("labels"), pod["metadata"].get("annotations"))
        if not self._renewed_at:
            self._renewed_at, self._metadata = now, metadata
        if now - self._renewed_at < VOLUME_REFRESH and self._metadata == metadata:
            return
        self._renewed_at, self._metadata = now, metadata
        try:
            self._volumes(pod).paths()
        except VolumeError as error:
            log.warning("volumes of pod %s are not renewed: %s", pod["metadata"]["name"], error)

    def _context(self, pod: Mapping[str, Any]) -> Context:
        return Context(
            pod=pod,
            pod_ip=self.where.pod_ip,
            host_ip=self.where.host_ip,
            allocatable=self.host.allocatable,
            config_map=self.namespace.config_map_text,
            secret=self.namespace.secret_text,
        )

    def _volumes(self, pod: Mapping[str, Any]) -> PodVolumes:
        return PodVolumes(
            folder=self.folder.volumes, pod=pod, context=self._context(pod), source=self.namespace
        )
