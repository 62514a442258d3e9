"""What signals mean to a program of ours, whoever started it.

A shell starts a background job, as some CI runners start all of theirs, with SIGINT and SIGQUIT ignored. Python then
installs no handler, and what is ignored is inherited by every process below: such a tree can not be interrupted. So an
entry point sets the handlers that it means. A handler does not outlive `execve`, so whatever it starts begins with
the default actions. SIGHUP stays ignored where it was: that is what nohup asks for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a program to end."""
_INHERITED = (signal.SIGQUIT, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
"""What else a parent may have ignored, without meaning this program."""


@contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """As `handle`, until the context ends; then the handlers from before are back."""
    before = {number: signal.getsignal(number) for number in handlers}
    handle(handlers)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handle(handlers: Mapping[signal.Signals, Handler]) -> None:
    """Let these handlers take their signals, even if the parent had them ignored or blocked; SIGHUP stays ignored.

    Only the main thread may call it, before other threads start.
    """
    for number, handler in handlers.items():
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    for number in _INHERITED:
        if number not in handlers and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP, *_INHERITED})


def default_all() -> None:
    """The state of a process that nothing was decided for: every action is the default one, nothing is blocked."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
