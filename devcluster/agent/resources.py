"""What pods share and must not share twice: addresses and (fake) GPUs."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Hashable

FIRST_HOST = 10
LAST_HOST = 250


class ExhaustedError(Exception):
    """Nothing of the kind is left; the message says of what."""


class Pool:
    """Hands out items in turn, so that one just given back is used again as late as possible."""

    def __init__(self, kind: str, items: list[str]) -> None:
        self._kind = kind
        self._free = items
        self._held: dict[Hashable, list[str]] = {}
        self._lock = threading.Lock()

    def take(self, holder: Hashable, count: int = 1) -> list[str]:
        """`count` items for `holder`; the same ones when it asks again. Raises `ExhaustedError`."""
        with self._lock:
            if holder in self._held:
                return self._held[holder]
            if count > len(self._free):
                raise ExhaustedError(f"{self._kind}: {count} wanted, {len(self._free)} left on this node")
            self._held[holder], self._free = self._free[:count], self._free[count:]
            return self._held[holder]

    def reserve(self, holder: Hashable, item: str) -> None:
        """Give `holder` an item it had in an earlier run of the agent."""
        with self._lock:
            self._free = [other for other in self._free if other != item]
            self._held[holder] = [item]

    def give_back(self, holder: Hashable) -> None:
        """Return what `holder` has, if anything."""
        with self._lock:
            self._free += self._held.pop(holder, [])


def address_pool(cidr: str, first: int = FIRST_HOST, last: int = LAST_HOST) -> Pool:
    """Pod addresses: hosts `first` to `last` of a /24."""
    network = ipaddress.ip_network(cidr)
    if network.num_addresses <= LAST_HOST:
        raise ValueError(f"pod CIDR {cidr} has {network.num_addresses} addresses, at least 256 are needed")
    return Pool("pod addresses", [str(network[host]) for host in range(first, last + 1)])


def gpu_pool(count: int) -> Pool:
    """GPU indices."""
    return Pool("GPUs", [str(index) for index in range(count)])
