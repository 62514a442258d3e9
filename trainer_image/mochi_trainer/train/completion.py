"""What makes a checkpoint valid: its manifest, written last; and the removal of the ones that it makes superfluous."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from mochi_api import layout
from mochi_trainer.errors import AccessDeniedError, InvalidInputError, MissingObjectError, StorageError
from mochi_trainer.storage import Entry, Store, write_manifest
from mochi_trainer.train.places import Place, places, superfluous

log = logging.getLogger(__name__)


class Completion:
    """Completes the checkpoints of one attempt, on rank 0. `before` is called before each manifest is written."""

    def __init__(self, store: Store, *, keep_last: int, before: Callable[[], None]) -> None:
        self._store, self._keep_last, self._before = store, keep_last, before
        self._warned = False
        self.spared: int | None = None
        """Step whose checkpoint is kept however old it is: the best one. The training thread sets it."""

    def complete(
        self, place: Place, entries: Sequence[Entry], details: Mapping[str, object], *, good: bool
    ) -> None:
        """Write the manifest of what `entries` list; older checkpoints beyond the number to keep go, if this one is good.

        Raises what `before` and the store raise, unless it is about an older one.
        """
        self._before()
        write_manifest(self._store, place.prefix, entries, details)
        if good:
            self._retire(place)

    def _retire(self, saved: Place) -> None:
        """Remove what is superfluous; a store that will not have it is no reason to stop training, and is named once."""
        try:
            found = places(info.key for info in self._store.list("checkpoints/"))
            for place in superfluous(found, self._is_complete, saved=saved, keep_last=self._keep_last):
                if place.step != self.spared:
                    self._remove(place)
        except (StorageError, AccessDeniedError, MissingObjectError, InvalidInputError) as error:
            level, self._warned = (logging.DEBUG if self._warned else logging.WARNING), True
            log.log(level, "old checkpoints in %s stay: %s", self._store.address("checkpoints"), error)

    def _is_complete(self, place: Place) -> bool:
        return self._store.exists(layout.join(place.prefix, layout.MANIFEST))

    def _remove(self, place: Place) -> None:
        """The manifest goes first."""
        self._store.delete([layout.join(place.prefix, layout.MANIFEST)])
        self._store.delete([info.key for info in self._store.list(place.prefix + "/")])
