"""What the pods of one node share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.agent.api import Api
from devcluster.agent.hosts import Endpoint
from devcluster.agent.images import ImageTable
from devcluster.agent.process import Launcher
from devcluster.agent.resources import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the pods of a node share."""

    api: Api
    launcher: Launcher
    images: ImageTable
    node_name: str
    node_ip: str
    allocatable: Mapping[str, str]
    state: Path
    addresses: Pool
    gpus: Pool
    back_off: float
    lost: Callable[[], bool]
    """Whether the node plays dead: nothing is written to the API server then."""
    hosts_file: Callable[[Endpoint, Mapping[str, Any]], str]
    """Content of /etc/hosts for a pod."""
    endpoints_changed: Callable[[], None]
    """Called when a pod became ready, or ceased to be."""
    address_freed: Callable[[], None]
    """Called when a pod has given its address back."""
