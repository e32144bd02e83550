"""Sessions of a scripted server: who is open, whose turn it is, and which masks rounds may refer to.

Knows sizes, masks and time. Does not know messages or scripts. All on one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from mediround._description import Limits
from mediround.errors import FailedPrecondition, NotFound, ResourceExhausted
from mediround.testing.script import Bits

_UNKNOWN = "no such session: it never was, it expired or gave way, or it is not yours; open a new one"
_CLOSED = "the session is closed; open a new one"
_UNASKED_SECONDS, _GIVES_WAY_SECONDS = 1.0, 60.0
"""Idle for so long, a session gives way where no more fit: one of which nothing was asked, and any other."""


@dataclass(slots=True, eq=False)
class ScriptedSession:
    """One image and the masks of its rounds; None for a round without one."""

    session_id: str
    image: bytes
    """Equal for equal images."""
    size: tuple[int, int]
    masks: list[Bits | None] = field(default_factory=list)
    words: int = 0
    """Of its questions and answers so far."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Wakes its waiters in the order of their arrival."""
    users: int = 0
    last_used: float = field(default_factory=monotonic)


class ScriptedSessions:
    """All sessions of a server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[str, ScriptedSession] = {}
        self._closed: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, image: bytes, size: tuple[int, int]) -> ScriptedSession:
        """Raises ResourceExhausted when no more are held and none may give way yet."""
        self._sweep()
        if len(self._open) >= self._limits.max_sessions:
            self._let_one_give_way()
        session = ScriptedSession(secrets.token_urlsafe(16), image, size)
        self._open[session.session_id] = session
        return session

    @asynccontextmanager
    async def exclusive(self, session_id: str) -> AsyncIterator[ScriptedSession]:
        """Hold a session when its turn comes. Raises NotFound or FailedPrecondition."""
        session = self._find(session_id)
        session.users += 1
        try:
            async with session.turn:
                self.check(session_id)  # it may have been closed meanwhile
                yield session
        finally:
            session.users -= 1
            session.last_used = monotonic()

    def check(self, session_id: str) -> None:
        """Raises NotFound or FailedPrecondition when the session is not open."""
        self._find(session_id)

    def close(self, session_id: str) -> None:
        """Raises NotFound when there never was one."""
        if session_id not in self._closed:
            self._find(session_id)
            del self._open[session_id]
            self._closed.add(session_id)

    def _find(self, session_id: str) -> ScriptedSession:
        self._sweep()
        if session_id in self._closed:
            raise FailedPrecondition(_CLOSED)
        if session_id not in self._open:
            raise NotFound(_UNKNOWN)
        return self._open[session_id]

    def _let_one_give_way(self) -> None:
        """Drop the session that may go first; one that was asked something may later than one that was not."""
        asked = min(_GIVES_WAY_SECONDS, self._limits.session_idle_timeout)
        ready = {
            key: session.last_used + (asked if session.masks else min(_UNASKED_SECONDS, asked))
            for key, session in self._open.items()
            if not session.users
        }
        first = min(ready, key=ready.__getitem__, default=None)
        wait = asked if first is None else ready[first] - monotonic()
        if first is None or wait > 0:
            words = f"{self._limits.max_sessions} sessions are open, the most that this server holds; close some"
            raise ResourceExhausted(words, wait)
        del self._open[first]

    def _sweep(self) -> None:
        deadline = monotonic() - self._limits.session_idle_timeout
        for session in list(self._open.values()):
            if session.last_used <= deadline and not session.users:
                del self._open[session.session_id]
