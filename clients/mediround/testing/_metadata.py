"""What a call's metadata says: the request's id, and the session that it names.

Knows metadata while a call is answered. Does not know requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar

from mediround._calls import REQUEST_ID, SESSION
from mediround.testing._rules import invalid

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SENT: ContextVar[Mapping[str, str | bytes]] = ContextVar("metadata")


def arrived(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """A call has; what follows in its task is about it."""
    _SENT.set(dict(metadata))


def request_id() -> str:
    """Empty where the caller sent none that can be one."""
    sent = str(_SENT.get({}).get(REQUEST_ID, ""))
    return sent if _UUID.fullmatch(sent) else ""


def check_session(session_id: str) -> None:
    """Raises InvalidArgument where the metadata names another session than the request."""
    if _SENT.get({}).get(SESSION, session_id) != session_id:
        raise invalid(SESSION, "must be the session of the request")
