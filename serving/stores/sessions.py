"""Sessions in this process's memory.

Knows the owner of a session, the order of its requests, when it expires, and the bytes of all. Does not know
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

UNKNOWN = "no such session: it never was, it expired or gave way, or it is not yours; open a new one"
CLOSED = "the session is closed; open a new one"
FULL = "open sessions hold all the memory that this server gives them; close some"
MOST = "sessions are open, the most that this server holds; close some"
_UNASKED_SECONDS = 1.0
"""A session of which nothing was asked holds no dialogue: its caller loses an upload, which may be held."""


@dataclass(slots=True, eq=False)
class _Entry:
    session: Session
    nbytes: int
    last_used: float
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Wakes its waiters in the order of their arrival."""
    users: int = 0
    """Requests that hold it or wait for it: it is not idle meanwhile."""


class MemorySessions:
    """A SessionStore."""

    def __init__(
        self,
        max_sessions: int,
        max_bytes: int,
        idle_timeout_s: float,
        clock: Callable[[], float],
        max_remembered: int = 10_000,
        *,
        give_way_after_s: float = 60.0,
    ) -> None:
        """``clock`` gives seconds, never backwards; ``max_remembered``: closed ids that are remembered.

        ``give_way_after_s``: idle for so long, a session makes room for another when the store is full.
        """
        self._give_way_after = min(give_way_after_s, idle_timeout_s)
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
        """Let idle sessions give way where a limit is reached.

        Raises:
            Exhausted: none may yet; when one may.
            ValueError: the id was used before.
        """
        self.sweep()
        if session.session_id in self._entries or session.session_id in self._closed:
            raise ValueError("this session id was used before")
        nbytes = _size(session)
        self._make_room(session.caller, nbytes, sessions=1)
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
            ValueError: it is not held, or ``session`` is not what it is now.
        """
        entry = self._find(session.session_id, session.caller)
        if not entry.turn.locked() or len(session.rounds) != len(entry.session.rounds):
            raise ValueError("rounds are appended to the held session as it is now")
        added = sum(_round_size(finished) for finished in rounds)
        self._make_room(session.caller, added, sessions=0)
        entry.session = replace(entry.session, rounds=(*entry.session.rounds, *rounds))
        entry.nbytes += added
        self._nbytes += added
        return entry.session

    async def close(self, session_id: str, caller: str) -> None:
        """Forget the session; a request that holds it keeps its snapshot to its end. See ``SessionStore``."""
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
        """Drop what has been idle for too long. Every call does; between calls a timer must."""
        deadline = self._clock() - self._idle_timeout
        old = takewhile(lambda item: item[1].last_used <= deadline, self._entries.items())
        expired = [key for key, entry in old if not entry.users]
        for key in expired:
            self._drop(key)

    def _make_room(self, caller: str, nbytes: int, sessions: int) -> None:
        """Let idle sessions give way until this fits: the caller's own first, then the longest idle.

        Raises:
            Exhausted: too few may do so now; says when enough will. None has given way then.
        """
        now, chosen = self._clock(), list[str]()
        ready = {
            key: max(now, self._ready(entry, caller)) for key, entry in self._entries.items() if not entry.users
        }
        order = iter(sorted(ready, key=lambda key: (ready[key], self._entries[key].session.caller != caller)))
        count, held = len(self._entries) + sessions, self._nbytes + nbytes
        full = FULL if count <= self._max_sessions else f"{self._max_sessions} {MOST}"
        while count > self._max_sessions or held > self._max_bytes:
            key = next(order, None)
            if key is None:  # those that are in use become idle at the earliest now
                raise Exhausted(full, self._give_way_after, Shed.SESSIONS)
            chosen.append(key)
            count, held = count - 1, held - self._entries[key].nbytes
        if chosen and ready[chosen[-1]] > now:
            raise Exhausted(full, ready[chosen[-1]] - now, Shed.SESSIONS)
        for key in chosen:
            self._drop(key)

    def _ready(self, entry: _Entry, caller: str) -> float:
        """When an idle session may give way to ``caller``; soon, where it is their own and nothing was asked."""
        soon = entry.session.caller == caller and not entry.session.rounds
        return entry.last_used + (min(_UNASKED_SECONDS, self._give_way_after) if soon else self._give_way_after)

    def _drop(self, session_id: str) -> None:
        self._nbytes -= self._entries.pop(session_id).nbytes


def _size(session: Session) -> int:
    return session.image.nbytes + sum(_round_size(finished) for finished in session.rounds)


def _round_size(finished: Round) -> int:
    mask = finished.mask.packed.nbytes if finished.mask else 0
    crop = finished.reference.crop.pixels.nbytes if finished.reference else 0
    return mask + crop
