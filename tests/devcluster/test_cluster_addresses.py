"""Blocks and ports."""

from __future__ import annotations

import random
import socket

import pytest

from devcluster import addresses
from devcluster.addresses import Endpoint


def test_two_reservations_never_share_a_block() -> None:
    same = random.Random
    with addresses.reserved_block(same(1)) as first, addresses.reserved_block(same(1)) as second:
        assert first != second
    with addresses.reserved_block(random.Random(1)) as again:
        assert again == first


def test_two_clusters_never_share_a_webhook_port() -> None:
    same = random.Random
    with addresses.reserved_port(same(1)) as first, addresses.reserved_port(same(1)) as second:
        assert first != second


def test_a_listener_on_all_addresses_takes_the_port_of_each() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        assert not addresses.is_free(Endpoint("127.9.9.9", port))
    assert addresses.is_free(Endpoint("127.9.9.9", port))


def test_a_taken_port_is_replaced_and_named() -> None:
    with socket.create_server(("127.9.9.9", 0)) as listener:
        taken = Endpoint("127.9.9.9", listener.getsockname()[1])
        said: list[str] = []
        other = addresses.preferred(taken, said.append)
    assert other.host == taken.host
    assert other.port != taken.port
    assert said == [f"port {taken.port} of 127.9.9.9 is taken by another program; using {other.port}"]


def test_the_kubelet_port_can_not_be_replaced() -> None:
    with pytest.raises(addresses.AddressError, match="port 10250 is taken"):
        addresses.allocate("127.9.9", 20000, print, free=lambda endpoint: endpoint.port != 10250)


def test_every_part_has_an_address_of_its_own() -> None:
    found = addresses.allocate("127.9.9", 20000, print, free=lambda _: True)
    endpoints = [
        found.apiserver,
        found.controller_manager,
        found.scheduler,
        found.s3,
        found.kubelet,
        found.webhook,
        found.training_operator_health,
    ]
    assert len(set(endpoints)) == len(endpoints)
    assert found.pod_cidr == "127.9.9.0/24"


def test_no_two_nodes_share_an_address_or_those_of_their_pods() -> None:
    found = addresses.allocate("127.9.9", 20000, print, free=lambda _: True)
    taken = {found.apiserver.host, found.s3.host, found.webhook.host}
    nodes = [found.node(number).host for number in range(addresses.MOST_NODES)]
    assert len({*nodes, *taken}) == len(nodes) + len(taken)
    for count in range(1, addresses.MOST_NODES + 1):
        ranges = [addresses.pod_hosts(number, count) for number in range(count)]
        hosts = [host for first, last in ranges for host in range(first, last + 1)]
        assert len(hosts) == len(set(hosts))
        assert min(hosts) == 10
        assert 250 - count < max(hosts) <= 250
