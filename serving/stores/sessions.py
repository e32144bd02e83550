"""Sessions in this process's memory.

Knows who owns a session, whose turn it is, when it expires, and how much all of them hold. Does not know
what a round is made of. All on one event loop: between two awaits nothing changes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import takewhile

from serving.domain import Round, Session
from serving.errors import Exhausted, NotFound, PreconditionFailed, Shed

UNKNOWN = "no such session: it never was, it expired, or it is not yours"
CLOSED = "the session is closed; open a new one"
FULL = "open sessions hold all the memory that this server gives them; close some"


@dataclass(slots=True, eq=False)
class _Entry:
    session: Session
    nbytes: int
    last_used: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Wakes its waiters in the order of their arrival."""
    users: int = 0
    """Who holds it or waits for it: it is not idle meanwhile."""


class MemorySessions:
    """A SessionStore."""

    def __init__(
        self,
        max_sessions: int,
        max_bytes: int,
        idle_timeout_s: float,
        clock: Callable[[], float],
        max_remembered: int = 10_000,
    ) -> None:
        """``clock`` gives seconds, never backwards; ``max_remembered``: closed ids known as such."""
        self._max_sessions, self._max_bytes, self._max_remembered = max_sessions, max_bytes, max_remembered
        self._idle_timeout, self._clock = idle_timeout_s, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._closed: OrderedDict[str, str] = OrderedDict()  # id → caller, oldest first
        self._nbytes = 0

    @property
    def count(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Pixels, masks and crops of all sessions."""
        return self._nbytes

    async def create(self, session: Session) -> None:
        """Raises Exhausted when a limit is reached, ValueError for an id that was used before."""
        self.sweep()
        if session.session_id in self._entries or session.session_id in self._closed:
            raise ValueError("this session id was used before")
        nbytes = _size(session)
        if len(self._entries) >= self._max_sessions:
            words = f"{self._max_sessions} sessions are open, the most that this server holds"
            raise Exhausted(words, reason=Shed.SESSIONS)
        if self._nbytes + nbytes > self._max_bytes:
            raise Exhausted(FULL, reason=Shed.SESSIONS)
        self._entries[session.session_id] = _Entry(session, nbytes, self._clock())
        self._nbytes += nbytes

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        """Hold the session as it is now, when its turn comes. See ``SessionStore``."""
        return self._exclusive(session_id, caller)

    @asynccontextmanager
    async def _exclusive(self, session_id: str, caller: str) -> AsyncIterator[Session]:
        entry = self._find(session_id, caller)
        entry.users += 1
        try:
            async with entry.turn:
                self._find(session_id, caller)  # it may have been closed meanwhile
                yield entry.session
        finally:
            entry.users -= 1
            self._touch(session_id, entry)

    async def append(self, session: Session, rounds: Sequence[Round]) -> Session:
        """Commit rounds to a held session.

        Raises:
            PreconditionFailed: it was closed meanwhile.
            Exhausted: they do not fit the memory that all sessions share.
            ValueError: nobody holds it, or ``session`` is not what it is now.
        """
        entry = self._find(session.session_id, session.caller)
        if not entry.turn.locked() or len(session.rounds) != len(entry.session.rounds):
            raise ValueError("rounds are appended to the held session as it is now")
        added = sum(_round_size(finished) for finished in rounds)
        if self._nbytes + added > self._max_bytes:
            raise Exhausted(FULL, reason=Shed.SESSIONS)
        entry.session = replace(entry.session, rounds=(*entry.session.rounds, *rounds))
        entry.nbytes += added
        self._nbytes += added
        return entry.session

    async def close(self, session_id: str, caller: str) -> None:
        """Forget the session; who holds it keeps their snapshot until they are done. See ``SessionStore``."""
        if self._closed.get(session_id) == caller:
            return
        self._find(session_id, caller)
        self._drop(session_id)
        self._closed[session_id] = caller
        if len(self._closed) > self._max_remembered:
            self._closed.popitem(last=False)

    def _find(self, session_id: str, caller: str) -> _Entry:
        self.sweep()
        if self._closed.get(session_id) == caller:
            raise PreconditionFailed(CLOSED)
        entry = self._entries.get(session_id)
        if entry is None or entry.session.caller != caller:
            raise NotFound(UNKNOWN)
        return entry

    def _touch(self, session_id: str, entry: _Entry) -> None:
        entry.last_used = self._clock()
        if session_id in self._entries:
            self._entries.move_to_end(session_id)

    def sweep(self) -> None:
        """Drop what has been idle for too long. Every call does; between calls somebody has to."""
        deadline = self._clock() - self._idle_timeout
        old = takewhile(lambda item: item[1].last_used <= deadline, self._entries.items())
        expired = [key for key, entry in old if not entry.users]
        for key in expired:
            self._drop(key)

    def _drop(self, session_id: str) -> None:
        self._nbytes -= self._entries.pop(session_id).nbytes


def _size(session: Session) -> int:
    return session.image.nbytes + sum(_round_size(finished) for finished in session.rounds)


def _round_size(finished: Round) -> int:
    mask = finished.mask.packed.nbytes if finished.mask else 0
    crop = finished.reference.crop.pixels.nbytes if finished.reference else 0
    return mask + crop
