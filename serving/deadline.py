"""By when the request that is being worked on must be answered.

Set once, at the gRPC boundary; read where work leaves the process. In between nobody carries it: a passed
deadline cancels the task, and that alone stops work in this process. Does not know calls.
"""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic

_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


def allow(seconds: float | None) -> None:
    """Work of this task, and of tasks that it starts, has ``seconds`` from now; None: as long as it takes."""
    _DEADLINE.set(None if seconds is None else monotonic() + seconds)


def remaining() -> float | None:
    """Seconds left, at least 0; None without a deadline."""
    deadline = _DEADLINE.get()
    return None if deadline is None else max(0.0, deadline - monotonic())


def within(seconds: float) -> float:
    """Seconds left, at most ``seconds``."""
    left = remaining()
    return seconds if left is None else min(left, seconds)
