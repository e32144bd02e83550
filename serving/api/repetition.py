"""What a request is known by when it comes again: the caller's id, and a fingerprint of all that it asks.

Knows which parts make a request the same. Does not know answers, or where they are kept (``serving.history``).
"""

from __future__ import annotations

from serving.history.record import RequestKey
from serving.runtime.digest import digest


def request_key(sent: str | None, method: str, caller: str, request: bytes) -> RequestKey | None:
    """None for a caller that sent no id: each of its requests is a new one.

    Args:
        sent: the caller's id.
        request: the message, in its deterministic form.
    """
    return None if sent is None else RequestKey(sent, digest("request", method, caller, request))
