"""The processes of one pod: started together, told to stop together, and all ended by the first that fails.

They are started and watched by the part of torch's elastic launcher that does so below torchrun. Of what torchrun has
above it nothing is wanted here: its rendezvous, since the ranks of all pods find each other by themselves and for as long
as the operator lets them wait; its restarts, since attempts are the operator's; and its error, which names no reason.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SubprocessContext

from mochi_trainer.parallel.stop import Stop

POLL_SECONDS = 0.1
LAST_SECONDS = 60
"""So long the others have to end when one has failed: they may hang in a collective, which no signal ends."""
GRACE_SECONDS = 3600
"""So long all have when the pod is stopped: as long as a grace period can be; its kubelet ends it sooner."""
_UNUSED = "SIGUSR2"
_TOLD_BY = "torch.distributed.elastic.multiprocessing.api"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one process ended."""

    local: int
    """Its number in the pod, from 0."""
    code: int
    """Its exit code; negative: the signal that killed it."""
    told: bool = False
    """Whether it ended only after it had been told to: because another had failed, or the pod is stopped."""


class Processes(SubprocessContext):
    """`command` once for each set of variables, which come on top of this process's own."""

    def __init__(
        self, command: Sequence[str], environments: Sequence[Mapping[str, str]], folder: str, stop: Stop
    ) -> None:
        program, *arguments = command
        numbers = range(len(environments))
        super().__init__(
            name="train",
            entrypoint=program,
            args={local: tuple(arguments) for local in numbers},
            envs={local: dict(environments[local]) for local in numbers},
            logs_specs=DefaultLogsSpecs(log_dir=folder),  # standard output and error are this process's own
        )
        self._stop = stop
        self._unasked: set[int] | None = None
        """Those that had ended when the others were told to for the first time."""

    def terminate(self) -> None:
        """SIGTERM to all that run."""
        for handler in list(self.subprocess_handlers.values()):
            if handler.proc.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(handler.proc.pid, signal.SIGTERM)

    def close(self, death_sig: signal.Signals | None = None, timeout: int = 0) -> None:
        """End those that still run; the wait for them is ours, not the 30 seconds of the base class."""
        if self._unasked is None:
            ended = (local for local, code in self.codes().items() if code is not None)
            self._unasked = set() if self._stop.requested else set(ended)
        super().close(death_sig, timeout or (GRACE_SECONDS if self._stop.requested else LAST_SECONDS))

    def codes(self) -> dict[int, int | None]:
        """Exit codes by number; None of one that runs."""
        return {local: handler.proc.poll() for local, handler in self.subprocess_handlers.items()}

    def ends(self) -> list[Ended]:
        """How each ended, once all have."""
        unasked = self._unasked or set()
        return [
            Ended(local=local, code=-signal.SIGKILL if code is None else code, told=local not in unasked)
            for local, code in sorted(self.codes().items())
        ]


def run(command: Sequence[str], environments: Sequence[Mapping[str, str]], stop: Stop) -> list[Ended]:
    """Run `command` in one process for each of `environments` until all have ended well, or one has failed.

    The others are then ended too; `stop` passes signals on. None is started, and nothing returned, when it has been
    requested before.
    """
    if stop.requested:
        return []
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = _UNUSED  # those that matter are handled by `stop`
    logging.getLogger(_TOLD_BY).setLevel(logging.CRITICAL)  # in a form of its own, and the outcome says it
    with tempfile.TemporaryDirectory(prefix="mochi-processes-") as folder:
        processes = Processes(command, environments, folder, stop)
        try:
            processes.start()
            stop.passes_on(processes.terminate)
            while processes.wait(timeout=0) is None:
                time.sleep(POLL_SECONDS)
        finally:
            processes.close()
        return processes.ends()
