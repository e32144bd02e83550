"""Request context: what travels with the request being served: its id, its deadline and its priority.

The gRPC edge sets id and deadline, the orchestrator the priority; all are read where work leaves this process. In
between nothing carries them as arguments. A passed deadline cancels the task, and that alone stops work in this
process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from uuid import uuid4

from serving.domain import Priority

REQUEST_ID = "x-request-id"
"""Metadata by which a caller names a request, so as to find it in the log."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""Whatever else a caller may send, a name or a number of a patient has not this form."""

_REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_REPEATABLE: ContextVar[bool] = ContextVar("repeatable", default=False)
_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)
_PRIORITY: ContextVar[Priority] = ContextVar("priority", default=Priority.INTERACTIVE)


def set_request_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
    """Work of this task is known by the caller's id, where it is a plain UUID; else by a new one."""
    sent = (value for key, value in metadata or () if key == REQUEST_ID)
    plain = next((value for value in sent if isinstance(value, str) and _UUID.fullmatch(value)), None)
    _REQUEST_ID.set(plain.lower() if plain else str(uuid4()))
    _REPEATABLE.set(plain is not None)


def request_id() -> str:
    """Empty outside a request."""
    return _REQUEST_ID.get()


def repeatable_id() -> str | None:
    """The id, if it is the caller's own: the request may come again by it."""
    return request_id() if _REPEATABLE.get() else None


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
