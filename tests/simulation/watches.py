"""Watch events on their way to the operators: late, twice, out of order, or never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mochi_api import identity
from mochi_operator.cluster import FINETUNES, JOBS, PODS, PYTORCHJOBS
from tests.simulation.kernel import Kernel
from tests.simulation.store import Object, Store, label

Wake = Callable[[tuple[str, str]], None]
_WATCHED = (FINETUNES.name, JOBS.name, PYTORCHJOBS.name, PODS.name)


@dataclass
class Delivery:
    """How events arrive at the moment."""

    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    """Share that takes up to `latest` seconds."""
    latest: float = 30.0


class Watches:
    """Tells all live operators about changes; what they make of it is their affair."""

    def __init__(self, kernel: Kernel, store: Store, wake: Wake) -> None:
        self._kernel = kernel
        self._store = store
        self._wake = wake
        self.delivery = Delivery()
        self.told = 0
        """Events that arrived."""
        store.listeners.append(self._changed)

    def relist(self) -> None:
        """A 410: the watch begins anew, with an event for every object."""
        self._kernel.note("watch", "410, listed anew")
        for kind in _WATCHED:
            for item in self._store.all(kind):
                self._send(kind, item)

    def _changed(self, kind: str, old: Object | None, new: Object | None) -> None:
        item = new or old
        if kind in _WATCHED and item is not None:
            self._send(kind, item)

    def _send(self, kind: str, item: Object) -> None:
        meta, kernel = item["metadata"], self._kernel
        name = meta["name"] if kind == FINETUNES.name else label(item, identity.LABEL_FINETUNE)
        if not name or kernel.chance(self.delivery.lost):
            return
        for _ in range(2 if kernel.chance(self.delivery.twice) else 1):
            late = kernel.chance(self.delivery.late)
            wait = kernel.between(1, self.delivery.latest) if late else kernel.between(0.01, 0.2)
            kernel.later(wait, self._arrive, (meta["namespace"], name))

    def _arrive(self, key: tuple[str, str]) -> None:
        self.told += 1
        self._wake(key)
