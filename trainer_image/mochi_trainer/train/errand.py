"""One thing done in a thread beside the training, again and again while the store does not answer, or refuses."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mochi_trainer.errors import AccessDeniedError, StorageError
from mochi_trainer.movement import PROCESS, Movement

T = TypeVar("T")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Seconds between two tries; it doubles from the first to the longest, and half of it is drawn, so that pods spread."""

Away = StorageError | AccessDeniedError
"""Why a store does not do what it is asked for, and may later: it is away, or somebody has to renew keys or permissions."""


class DroppedError(Exception):
    """What was being done is not wanted any more."""


class Errand(Generic[T]):
    """Does `act` until it succeeds, until it raises something else than `Away`, or until it is dropped.

    `act` is given a function that it calls now and then, and that raises when the errand is dropped. `failed` is called, in
    the errand's thread, with each `Away`. What moves in it is no movement of the process.
    """

    def __init__(
        self,
        act: Callable[[Callable[[], None]], T],
        *,
        name: str,
        failed: Callable[[Away], None] = lambda _: None,
    ) -> None:
        self._act, self._failed = act, failed
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._dropped, self._over, self._told = threading.Event(), threading.Event(), threading.Event()
        self._moves = self._moves_told = 0
        self.lost = 0
        """Tries that failed although something had moved in them: the next one does that again."""
        self.problem: Away | None = None
        """Why the last try failed; None when none has, and again when something moves in the next."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it has succeeded. Raises what ended it otherwise."""
        if self._error is not None:
            raise self._error
        return bool(self._found)

    @property
    def found(self) -> T:
        """What `act` returned; ask only when it is done."""
        return self._found[0]

    def moved(self) -> bool:
        """Whether something has moved in it since this was asked last."""
        before, self._moves_told = self._moves_told, self._moves
        return self._moves_told > before

    def wait(self, seconds: float) -> None:
        """Until it is over or a try has failed, but no longer than so many seconds."""
        self._told.wait(seconds)
        if not self._over.is_set():
            self._told.clear()

    def drop(self) -> None:
        """It is not wanted any more: it ends by itself soon, and whatever it does until then counts for nothing."""
        self._dropped.set()

    def _run(self) -> None:
        own = Movement()
        with PROCESS.beside(own), own.heard(self._moved):
            tries = 0
            while not self._dropped.is_set():
                before = self._moves
                try:
                    self._found.append(self._act(self._check))
                    break
                except (StorageError, AccessDeniedError) as error:
                    if self._dropped.is_set():
                        break
                    tries += 1
                    self.lost += self._moves > before
                    self.problem = error
                    self._failed(error)
                    self._told.set()
                    self._dropped.wait(_pause(tries))
                except BaseException as error:  # raised again where the training is
                    self._error = error
                    break
        self._over.set()
        self._told.set()

    def _moved(self) -> None:
        self._moves += 1
        self.problem = None

    def _check(self) -> None:
        if self._dropped.is_set():
            raise DroppedError


def _pause(tries: int) -> float:
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**tries)
    return longest / 2 + random.random() * longest / 2  # spreads load, guards nothing
