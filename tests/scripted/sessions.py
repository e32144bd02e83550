"""A second session store: sessions lie as bytes, so nothing may depend on an object's identity."""

from __future__ import annotations

import asyncio
import pickle
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from serving.domain import Round, Session
from serving.errors import Exhausted, NotFound, PreconditionFailed


class PickledSessions:
    """A SessionStore. Turns are given by queues of futures, one for each session."""

    def __init__(
        self, max_sessions: int, max_bytes: int, idle_timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._max_sessions, self._max_bytes = max_sessions, max_bytes
        self._idle_timeout, self._clock = idle_timeout_s, clock
        self._stored: dict[str, bytes] = {}
        self._used: dict[str, float] = {}
        self._owners: dict[str, str] = {}
        self._queues: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    async def create(self, session: Session) -> None:
        self._expire()
        stored = pickle.dumps(session)
        held = sum(len(other) for other in self._stored.values())
        if len(self._stored) >= self._max_sessions or held + len(stored) > self._max_bytes:
            raise Exhausted("the store is full")
        self._stored[session.session_id] = stored
        self._owners[session.session_id] = session.caller
        self._used[session.session_id] = self._clock()

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        return self._exclusive(session_id, caller)

    @asynccontextmanager
    async def _exclusive(self, session_id: str, caller: str) -> AsyncIterator[Session]:
        self._load(session_id, caller)
        queue, ticket = self._queues[session_id], asyncio.get_running_loop().create_future()
        queue.append(ticket)
        try:
            if queue[0] is ticket:
                ticket.set_result(None)
            await ticket
            yield self._load(session_id, caller)
        finally:
            was_first = queue[0] is ticket
            queue.remove(ticket)
            if was_first and queue:
                queue[0].set_result(None)
            self._used[session_id] = self._clock()

    async def append(self, session: Session, rounds: Sequence[Round]) -> Session:
        now = self._load(session.session_id, session.caller)
        if not self._queues[session.session_id] or len(now.rounds) != len(session.rounds):
            raise ValueError("not the held session")
        grown = replace(now, rounds=(*now.rounds, *rounds))
        stored = pickle.dumps(grown)
        others = sum(len(other) for name, other in self._stored.items() if name != session.session_id)
        if others + len(stored) > self._max_bytes:
            raise Exhausted("the store is full")
        self._stored[session.session_id] = stored
        return grown

    async def close(self, session_id: str, caller: str) -> None:
        self._expire()
        if self._owners.get(session_id) != caller:
            raise NotFound("no such session")
        self._stored.pop(session_id, None)

    def _load(self, session_id: str, caller: str) -> Session:
        self._expire()
        if self._owners.get(session_id) != caller:
            raise NotFound("no such session")
        if session_id not in self._stored:
            raise PreconditionFailed("closed")
        return pickle.loads(self._stored[session_id])  # noqa: S301  # its own bytes

    def _expire(self) -> None:
        deadline = self._clock() - self._idle_timeout
        for key in [key for key, used in self._used.items() if used <= deadline and not self._queues[key]]:
            del self._used[key], self._owners[key]
            self._stored.pop(key, None)
