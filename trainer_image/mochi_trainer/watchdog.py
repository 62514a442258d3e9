"""Where a process hangs: when nothing has moved for long, what each of its threads is doing goes to the log.

The operator ends a run that stands still (`runPolicy.stallTimeoutSeconds`, 900 s unless said otherwise); this comes before,
on every rank, so that what is left of each says where it stood.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mochi_trainer import environment
from mochi_trainer.movement import Movement, in_thread

log = logging.getLogger(__name__)

VARIABLE = "MOCHI_STACKS_AFTER_SECONDS"
QUIET_SECONDS = 240.0
"""A quarter of the usual stall timeout; the longest step that is known moves every few seconds."""

WAITING = "waiting for peers"
"""Nobody hangs who waits for a pod that has no node yet."""


@contextmanager
def watched(movement: Movement, *, after: float | None = None, to: TextIO | None = None) -> Iterator[None]:
    """Write the stacks of all threads once nothing has moved for `after` seconds, once for each such silence.

    Unless given, `after` is the environment's, or the default, and they go to standard error.
    """
    limit = environment.seconds(VARIABLE, QUIET_SECONDS) if after is None else after

    def watch(over: threading.Event) -> None:
        told = False
        while not over.wait(min(limit / 4, 10.0)):
            quiet, activity = movement.quiet, movement.heartbeat().activity
            if quiet < limit or activity == WAITING:
                told = False
            elif not told:
                told = True
                log.warning("nothing has moved for %.0f s; what each thread is doing:", quiet)
                faulthandler.dump_traceback(to or sys.stderr, all_threads=True)

    with in_thread(watch, name="watchdog"):
        yield
