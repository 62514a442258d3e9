"""The failure of one clip, apart from `mochi_trainer.errors`: what reads clips needs nothing of what that imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mochi_api.clips import ClipReason

if TYPE_CHECKING:
    from mochi_api.outcomes import Item


class ClipError(Exception):
    """One clip cannot be used; the message says why and, where there is one, the cure."""

    def __init__(self, message: str, reason: ClipReason) -> None:
        super().__init__(message)
        self.reason = reason

    def item(self, clip: str) -> Item:
        """As the stage counts it; `clip` is its key in the dataset."""
        from mochi_api.outcomes import Item

        return Item.of(clip, str(self), self.reason)
