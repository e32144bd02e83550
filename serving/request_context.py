"""What travels with the request that is being worked on: its deadline and its priority.

The gRPC edge sets the deadline, the orchestrator the priority; both are read where work leaves this process. In
between nothing carries them as arguments. A passed deadline cancels the task, and that alone stops work in this
process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

from serving.domain import Priority

_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)
_PRIORITY: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)


def set_deadline(seconds: float | None) -> None:
    """Work of this task, and of tasks that it starts, has ``seconds`` from now; None: as long as it takes."""
    _DEADLINE.set(None if seconds is None else monotonic() + seconds)


def remaining() -> float | None:
    """Seconds left, at least 0; None without a deadline."""
    deadline = _DEADLINE.get()
    return None if deadline is None else max(0.0, deadline - monotonic())


def within(seconds: float) -> float:
    """Seconds left, at most ``seconds``."""
    left = remaining()
    return seconds if left is None else min(seconds, left)


@contextmanager
def prioritised(priority: Priority) -> Iterator[None]:
    """What this task does within the block, and tasks that it starts there, has this priority.

    A generator must not yield within it: the body of a generator runs in its reader's context, so the reader would
    have the priority too.
    """
    token = _PRIORITY.set(priority)
    try:
        yield
    finally:
        _PRIORITY.reset(token)


def priority() -> Priority:
    return _PRIORITY.get()
