"""How urgent the request that is being worked on is.

Set once, in the service; read where work queues outside this process. As with deadlines, nobody carries it in
between. Does not know queues.
"""

from __future__ import annotations

from contextvars import ContextVar
from enum import IntEnum


class Priority(IntEnum):
    """Lower goes first; 1 and 2 are Triton's own numbers."""

    INTERACTIVE = 1
    """A person waits for this round."""
    BATCH = 2
    """A dialogue known in advance."""


_PRIORITY: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)


def claim(priority: Priority) -> None:
    """For the work of this task, and of tasks that it starts."""
    _PRIORITY.set(priority)


def claimed() -> Priority:
    return _PRIORITY.get()
