"""How urgent the request that is being worked on is, where work queues outside this process.

Set once, in the service; read by engines whose server has queues of its own. As with deadlines, nobody carries
it in between. Does not know queues.
"""

from __future__ import annotations

from contextvars import ContextVar

from serving.domain import Priority

_PRIORITY: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)


def claim(priority: Priority) -> None:
    """For the work of this task, and of tasks that it starts."""
    _PRIORITY.set(priority)


def claimed() -> Priority:
    return _PRIORITY.get()
