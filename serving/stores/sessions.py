"""Sessions in this process's memory.

Knows the owner of a session, the order of its requests, when it expires, and the bytes of all. Does not know what
a round is made of. All on one event loop: between two awaits nothing changes.

Each session counts its image and all that its record holds, also what a branch shares with its origin: the sum is
never less than what is held. A store that keeps sessions elsewhere has those at work here
(``serving.stores.kept``).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeAlias

from serving.domain import SourceImage
from serving.errors import NotFound
from serving.history import changes
from serving.history.record import Session, SessionRecord, SessionSummary, Snapshot
from serving.stats import SessionStats
from serving.stores.endings import CLOSED, GAVE_WAY, IDLE, IN_MEMORY_ALONE, OLD, UNKNOWN, ended, used
from serving.stores.room import Budget, Key, Need, Occupant, Taken, giving_way

_UNASKED_SECONDS = 1.0
"""A session of which nothing was asked holds no dialogue: its caller loses an upload, which may be held."""

Write: TypeAlias = Callable[[SessionRecord, SessionRecord], Awaitable[None]]
"""Puts the second record in the first one's place."""


@dataclass(slots=True, eq=False)
class _Entry:
    session: Session
    nbytes: int
    opened: float
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
        lifetime_s: float = float("inf"),
        parks: bool = False,
        each: Budget | None = None,
    ) -> None:
        """``clock`` gives seconds, never backwards; ``max_remembered``: ids of ended sessions that are remembered.

        ``each``: what one payer's sessions may take; None: there is no such budget.

        ``give_way_after_s``: idle for so long, a session makes room for another when the store is full.
        ``lifetime_s``: from its opening, however much it is used. ``parks``: sessions to be kept lie elsewhere,
        too; those that are idle, or give way, are dropped here and not ended.
        """
        self._parks = parks
        self._give_way_after = min(give_way_after_s, idle_timeout_s)
        self._budget, self._max_remembered = Budget(max_sessions, max_bytes), max_remembered
        self._each = each
        self.gave_way = 0
        self._idle_timeout, self._lifetime, self._clock = idle_timeout_s, lifetime_s, clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # least recently used first
        self._by_age: dict[Key, _Entry] = {}  # the first opened first
        self._ended: OrderedDict[Key, str] = OrderedDict()  # in which words, oldest first
        self._taken = Taken()
        self._leaving: list[_Entry] = []  # gone, while their last requests end
        self._listeners: list[Callable[[str, str], None]] = []

    @property
    def count(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Pixels, masks and crops of all sessions, and an estimate of the rest."""
        return self._taken.nbytes

    @property
    def stats(self) -> SessionStats:
        return SessionStats(gave_way=self.gave_way)

    @property
    def kept(self) -> int:
        """Of those that are here, how many lie elsewhere, too."""
        return self._parks and sum(entry.session.record.keep for entry in self._entries.values())

    async def create(self, session: Session) -> None:
        """Let idle sessions give way where a limit is reached. See ``SessionStore``.

        Raises:
            Exhausted: none may yet; when one may.
        """
        self.sweep()
        key = (session.caller, session.session_id)
        if key in self._entries or key in self._ended:
            raise used()
        self.admit(session, 0.0)

    def admit(self, session: Session, age_s: float) -> None:
        """Take a session that was opened ``age_s`` ago, and is not here. Raises Exhausted as ``create`` does."""
        key, now = (session.caller, session.session_id), self._clock()
        nbytes = session.image.nbytes + changes.nbytes(session.record)
        self._make_room(session.record, nbytes, sessions=1)
        self._entries[key] = self._by_age[key] = _Entry(session, nbytes, now - age_s, now)
        if age_s:
            self._by_age = dict(sorted(self._by_age.items(), key=lambda item: item[1].opened))
        self._taken.add(session.record.payer, 1, nbytes)

    def find(self, session_id: str, caller: str) -> Session | None:
        """The session; None where it is not here. Raises as a ``SessionStore`` for one that has ended here."""
        key = (caller, session_id)
        self.sweep()
        if key in self._ended:
            raise ended(self._ended[key])
        return self._entries[key].session if key in self._entries else None

    def holds(self, session_id: str, caller: str) -> bool:
        return (caller, session_id) in self._entries

    def replace(self, session: Session) -> None:
        """Another state of a session that is here, as it lies elsewhere; for it no room is made."""
        entry = self._entries[session.caller, session.session_id]
        self._taken.add(entry.session.record.payer, -1, -entry.nbytes)
        entry.session, entry.nbytes = session, session.image.nbytes + changes.nbytes(session.record)
        self._taken.add(session.record.payer, 1, entry.nbytes)

    def drop(self, session_id: str, caller: str) -> None:
        """Forget that it was here; nothing where it was not."""
        key = (caller, session_id)
        if key in self._entries:
            self._leaving.append(gone := self._entries.pop(key))
            del self._by_age[key]
            self._let_go(gone)
            for listener in self._listeners:
                listener(session_id, caller)

    def on_gone(self, listener: Callable[[str, str], None]) -> None:
        """See ``SessionStore``."""
        self._listeners.append(listener)

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        """Hold the session as it is now, when its turn comes. See ``SessionStore``."""
        return self._exclusive((caller, session_id))

    @asynccontextmanager
    async def _exclusive(self, key: Key) -> AsyncIterator[Session]:
        entry = self._find(key)
        entry.users += 1
        try:
            async with entry.turn:
                self._find(key)  # it may have been closed meanwhile
                yield entry.session
        finally:
            entry.users -= 1
            self._touch(key, entry)
            self._let_go(entry)

    async def commit(self, record: SessionRecord, write: Write | None = None) -> None:
        """Take the next record of a held session. See ``SessionStore``.

        ``write`` puts it elsewhere first, with room for it here; nobody sees it here before.

        Raises:
            ValueError: it is not held, or this is not its next record.
        """
        entry = self._find((record.caller, record.session_id))
        held = entry.session
        if not entry.turn.locked() or record.version != held.record.version + 1:
            raise ValueError("the next record of a held session must be one version above")
        added = held.image.nbytes + changes.nbytes(record) - entry.nbytes
        self._make_room(record, added, sessions=0)
        self._grow(entry, added)
        try:
            if write is not None:
                await write(held.record, record)
        except BaseException:
            self._grow(entry, -added)
            raise
        entry.session = Session(record, held.image)

    async def read(self, session_id: str, caller: str) -> Snapshot:
        """See ``SessionStore``."""
        key = (caller, session_id)
        entry = self._find(key)
        self._touch(key, entry)
        return self._snapshot(entry)

    async def resume(self, session_id: str, caller: str, image: SourceImage) -> None:  # noqa: ARG002  # SessionStore's
        """None is ever without its image here. See ``SessionStore``."""
        self._find((caller, session_id))

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[SessionSummary]:
        """See ``SessionStore``."""
        self.sweep()
        own = [entry for key, entry in self._entries.items() if key[0] == caller]
        own.sort(key=lambda entry: _age(entry.session.record), reverse=True)
        behind = [entry for entry in own if after is None or _age(entry.session.record) < after]
        return [SessionSummary.of(self._snapshot(entry)) for entry in behind[:count]]

    def seconds_left(self, session_id: str, caller: str) -> float:
        """See ``SessionStore``."""
        entry = self._entries.get((caller, session_id))
        return 0.0 if entry is None else self._left(entry, self._clock())

    async def close(self, session_id: str, caller: str) -> None:
        """Forget it; a request that holds it keeps its snapshot, and room, to its end. See ``SessionStore``."""
        key = (caller, session_id)
        if self._ended.get(key) != CLOSED:
            self._find(key)
            self._end(key, CLOSED)

    def sweep(self) -> None:
        """Drop what has been idle or open for too long. Every call does; between calls a timer must."""
        now = self._clock()
        idle = takewhile(lambda item: item[1].last_used <= now - self._idle_timeout, self._entries.items())
        old = takewhile(lambda item: item[1].opened <= now - self._lifetime, self._by_age.items())
        expired = {key: IDLE for key, entry in idle if not entry.users}
        expired |= {key: OLD for key, entry in old if not entry.users}
        for key, words in expired.items():
            self._end(key, words)

    def _find(self, key: Key) -> _Entry:
        if self.find(key[1], key[0]) is None:
            raise NotFound(UNKNOWN)
        return self._entries[key]

    def _grow(self, entry: _Entry, nbytes: int) -> None:
        """What is counted of it; of one that was closed meanwhile this changes no more."""
        if self._entries.get((entry.session.caller, entry.session.session_id)) is entry:
            entry.nbytes += nbytes
            self._taken.add(entry.session.record.payer, 0, nbytes)

    def _let_go(self, entry: _Entry) -> None:
        """A session that is gone takes room until no request holds it."""
        if entry in self._leaving and not entry.users:
            self._leaving.remove(entry)
            self._taken.add(entry.session.record.payer, -1, -entry.nbytes)

    def _touch(self, key: Key, entry: _Entry) -> None:
        entry.last_used = self._clock()
        if key in self._entries:
            self._entries.move_to_end(key)

    def _snapshot(self, entry: _Entry) -> Snapshot:
        return Snapshot(entry.session.record, self._left(entry, entry.last_used))

    def _left(self, entry: _Entry, last_used: float) -> float:
        end = entry.opened + self._lifetime
        idle = end if self._parks and entry.session.record.keep else last_used + self._idle_timeout
        return max(0.0, min(idle, end) - self._clock())

    def _make_room(self, record: SessionRecord, nbytes: int, sessions: int) -> None:
        """Let idle sessions give way until this fits. Raises Exhausted as ``giving_way`` does; none has then."""
        need = Need(record.payer, sessions, nbytes, self._clock(), self._give_way_after)
        if self._taken.leaves(need, self._budget, self._each):
            return
        held = [self._occupant(entry, need.payer) for entry in (*self._entries.values(), *self._leaving)]
        for key in giving_way(held, need, self._budget, self._each):
            self.gave_way += 1
            self._end(key, GAVE_WAY)

    def _occupant(self, entry: _Entry, payer: tuple[str, str]) -> Occupant:
        record, ready = entry.session.record, None if entry.users else self._ready(entry, payer)
        own, key = record.payer == payer, (record.caller, record.session_id)
        return Occupant(key, record.payer, entry.nbytes, ready, own)

    def _ready(self, entry: _Entry, payer: tuple[str, str]) -> float:
        """When an idle session may give way to ``payer``; soon, where it is their own and nothing was asked."""
        soon = entry.session.record.payer == payer and not entry.session.rounds
        return entry.last_used + (min(_UNASKED_SECONDS, self._give_way_after) if soon else self._give_way_after)

    def _end(self, key: Key, words: str) -> None:
        """Drop the session, and remember why."""
        kept = self._entries[key].session.record.keep and words != CLOSED
        self.drop(key[1], key[0])
        if kept and self._parks and words != OLD:
            return
        self._ended[key] = words + IN_MEMORY_ALONE if kept and not self._parks else words
        if len(self._ended) > self._max_remembered:
            self._ended.popitem(last=False)


def _age(record: SessionRecord) -> tuple[float, str]:
    return record.opened_at, record.session_id
