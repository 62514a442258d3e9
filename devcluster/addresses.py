"""A loopback /24 for each cluster, and ports that nothing else listens on."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

TRIES = 64
"""How many random blocks or ports are tried before giving up."""
KUBELET_PORT = 10250
_NODE_HOSTS = (3, 5, 6, 7, 8, 9)
MOST_NODES = len(_NODE_HOSTS)
_POD_HOSTS = range(10, 251)
_ANY = "0.0.0.0"  # noqa: S104 - the address the webhook server binds, it has no option for another


class AddressError(Exception):
    """No address or port to be had; the message names it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where the parts of one cluster listen. etcd has no address: it is reached over a socket file."""

    block: str
    """First three numbers, such as 127.12.34."""

    apiserver: Endpoint
    controller_manager: Endpoint
    scheduler: Endpoint
    s3: Endpoint
    kubelet: Endpoint
    """Of the first node."""
    webhook: Endpoint
    """Its server listens on all addresses, so the port is another one in each cluster."""
    training_operator_health: Endpoint

    @property
    def pod_cidr(self) -> str:
        """The block; pods get .10 to .250."""
        return f"{self.block}.0/24"

    def node(self, number: int) -> Endpoint:
        """Where the agent of a node listens."""
        return Endpoint(f"{self.block}.{_NODE_HOSTS[number]}", self.kubelet.port)


def pod_hosts(number: int, nodes: int) -> tuple[int, int]:
    """First and last host of the block that the pods of node `number` of `nodes` get."""
    share = len(_POD_HOSTS) // nodes
    mine = _POD_HOSTS[number * share : (number + 1) * share]
    return mine[0], mine[-1]


def is_free(endpoint: Endpoint) -> bool:
    """Whether one can listen there now; a listener on all addresses takes the port of every address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((endpoint.host, endpoint.port))
            probe.listen(1)
        except OSError:
            return False
    return True


Free = Callable[[Endpoint], bool]


def preferred(endpoint: Endpoint, say: Callable[[str], None], free: Free = is_free) -> Endpoint:
    """`endpoint`, or the same address with a free port when its port is taken. Raises `AddressError`."""
    if free(endpoint):
        return endpoint
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((endpoint.host, 0))
        except OSError as error:
            raise AddressError(f"{endpoint.host} can not be bound: {error.strerror}") from error
        other = Endpoint(endpoint.host, int(probe.getsockname()[1]))
    say(f"port {endpoint.port} of {endpoint.host} is taken by another program; using {other.port}")
    return other


@contextlib.contextmanager
def _claim(names: Iterable[str], what: str) -> Iterator[str]:
    """The first of `names` that no other cluster of this machine holds, held while the context lasts.

    A claim is a name in the kernel's table of abstract sockets: it holds across users and ends with the process
    that made it. Raises `AddressError`.
    """
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
            try:
                claim.bind(f"\0mochi-devcluster/{name}")
            except OSError:
                continue
            yield name
            return
    raise AddressError(f"no free {what} after {TRIES} tries")


@contextlib.contextmanager
def reserved_block(rng: random.Random | None = None) -> Iterator[str]:
    """First three numbers of a /24 that no other cluster has while the context lasts. Raises `AddressError`."""
    choice = rng or random.SystemRandom()
    names = (f"127.{choice.randint(16, 254)}.{choice.randint(0, 254)}" for _ in range(TRIES))
    with _claim(names, "block in 127.0.0.0/8") as block:
        yield block


@contextlib.contextmanager
def reserved_port(rng: random.Random | None = None) -> Iterator[int]:
    """A port that is free on all addresses, and that no other cluster takes while the context lasts.

    Below the kernel's range for outgoing connections. Raises `AddressError`.
    """
    choice = rng or random.SystemRandom()
    ports = (choice.randint(20000, 32000) for _ in range(TRIES))
    with _claim((str(port) for port in ports if is_free(Endpoint(_ANY, port))), "port") as port:
        yield int(port)


def allocate(block: str, webhook_port: int, say: Callable[[str], None], free: Free = is_free) -> Addresses:
    """Addresses in `block`, with the usual port of each part where that is free. Raises `AddressError`."""
    kubelet = Endpoint(f"{block}.3", KUBELET_PORT)
    if not free(kubelet):
        raise AddressError(
            f"port {KUBELET_PORT} is taken on every address of this machine (a kubelet?); "
            "the node agent needs it: stop the other program"
        )
    return Addresses(
        block=block,
        apiserver=preferred(Endpoint(f"{block}.1", 6443), say, free),
        controller_manager=preferred(Endpoint(f"{block}.1", 10257), say, free),
        scheduler=preferred(Endpoint(f"{block}.1", 10259), say, free),
        s3=preferred(Endpoint(f"{block}.2", 7070), say, free),
        kubelet=kubelet,
        webhook=Endpoint(f"{block}.4", webhook_port),
        training_operator_health=preferred(Endpoint(f"{block}.4", 8081), say, free),
    )
