"""Programs of ours and what they start, under parents that ignore or block signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import signals

ROOT = Path(__file__).resolve().parents[2]
SHOW = (
    "import signal; print([int(n) for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN])"
)
PROGRAM = f"""
import signal, subprocess, sys
from devcluster import signals
def end(number, frame):
    raise SystemExit(number)
before = signal.getsignal(signal.SIGINT)
with signals.handled(dict.fromkeys(signals.STOP, end)):
    held = sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    child = subprocess.run([sys.executable, "-c", {SHOW!r}], capture_output=True, text=True).stdout.strip()
    print(child, held, flush=True)
    try:
        signal.raise_signal(signal.Signals[sys.argv[1]])
        print("goes on")
    except SystemExit as ended:
        print("ended by", signal.Signals(ended.code).name)
print("the handler from before is back:", signal.getsignal(signal.SIGINT) == before)
"""
PYTHONS_OWN = "[13, 25]"
"""SIGPIPE and SIGXFSZ: Python itself ignores them."""


def run(parent: str, signal_name: str) -> list[str]:
    """What PROGRAM says when `parent` starts it."""
    command = ["bash", "-c", f'{parent}; exec "$@"', "bash", sys.executable, "-c", PROGRAM, signal_name]
    done = subprocess.run(
        command,
        cwd=ROOT,
        preexec_fn=signals.default_all,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_program_below_a_parent_that_ignores_signals_ends_when_asked_and_starts_clean_children(
    name: str,
) -> None:
    assert run('trap "" INT TERM QUIT CHLD USR1 USR2', name) == [
        f"{PYTHONS_OWN} []",
        f"ended by {name}",
        "the handler from before is back: True",
    ]


def test_a_hangup_ends_a_program_but_not_under_nohup() -> None:
    assert run("true", "SIGHUP")[1] == "ended by SIGHUP"
    assert run('trap "" HUP', "SIGHUP")[1] == "goes on"


def test_signals_that_a_parent_has_blocked_arrive() -> None:
    blocked = f"""
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGINT, signal.SIGTERM}})
os.execv(sys.executable, [sys.executable, "-c", {PROGRAM!r}, "SIGINT"])
"""
    command = [sys.executable, "-c", blocked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[1] == "ended by SIGINT", done.stderr
