"""Every scope is kept watched, whatever becomes of the others."""

import asyncio
import threading

from mochi_operator.watches import Scope, Watches

LIMIT_SECONDS = 20.0


class Cluster:
    """Watches of namespace `gone` are forbidden; those of others go on until they are stopped."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.tried_again = threading.Event()
        self.watched = threading.Event()

    async def watch(self, scope: Scope, stopped: threading.Event) -> None:
        name = scope[0] if scope else "all"
        self.begun.append(name)
        if name == "gone":
            if self.begun.count(name) > 2:
                self.tried_again.set()
            raise PermissionError("mochifinetunes is forbidden")
        self.watched.set()
        await asyncio.to_thread(stopped.wait, LIMIT_SECONDS)
        self.ended.append(name)


async def test_a_namespace_that_is_forbidden_is_tried_again_and_costs_no_other():
    cluster = Cluster()
    watches = Watches(["a", "gone", "b"], cluster.watch, pause_seconds=0.01)
    watches.start()
    assert await asyncio.to_thread(cluster.tried_again.wait, LIMIT_SECONDS)
    assert (cluster.begun.count("a"), cluster.begun.count("b"), cluster.ended) == (1, 1, [])
    await watches.stop()
    assert sorted(cluster.ended) == ["a", "b"]


async def test_without_namespaces_one_scope_is_the_whole_cluster():
    cluster = Cluster()
    watches = Watches([], cluster.watch)
    watches.start()
    assert await asyncio.to_thread(cluster.watched.wait, LIMIT_SECONDS)
    await watches.stop()
    assert (cluster.begun, cluster.ended) == (["all"], ["all"])
