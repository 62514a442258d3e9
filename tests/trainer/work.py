"""How much work a call is, counted: a time would say how busy the machine is."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines(act: Callable[[], object]) -> int:
    """The lines of Python that ``act`` executes in this thread; each turn of a loop counts anew."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count
