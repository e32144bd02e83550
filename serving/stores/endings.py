"""How sessions end, and in which words their owners are told.

Knows words and errors. Does not know sessions.
"""

from __future__ import annotations

from serving.errors import NotFound, PreconditionFailed, Reason, ServingError

UNKNOWN = "no such session: it never was, it expired or gave way, or it is not yours; open a new one"
CLOSED = "the session is closed; open a new one"
IDLE = "the session has expired: nothing was asked of it for too long; open a new one"
OLD = "the session has expired: it was open for as long as one may be; open a new one"
GAVE_WAY = "the session has given way to others, for which this server had no room; open a new one"
IN_MEMORY_ALONE = " (it was to be kept, but this server keeps sessions in memory alone)"
USED = "this session id was used before: a new session needs a new one"


def used() -> PreconditionFailed:
    """The answer to who opens a session by an id that they have used."""
    return PreconditionFailed(USED, Reason.SESSION_ID_USED)


def ended(words: str) -> ServingError:
    """The answer to who asks for a session that has ended in these words."""
    if words == CLOSED:
        return PreconditionFailed(words, Reason.SESSION_CLOSED)
    return NotFound(words, Reason.SESSION_EXPIRED)
