"""Session stores for tests: one where sessions lie as bytes, so that nothing may depend on an object's identity;
and the one in a file, put together by hand."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from serving.bundle import Manifest
from serving.domain import SourceImage
from serving.errors import Exhausted, NotFound, PreconditionFailed, Reason
from serving.geometry import Geometry
from serving.history.record import Session, SessionRecord, SessionSummary, Snapshot
from serving.observer import NullObserver, Observer
from serving.stores.kept.sessions import Keeping, KeptSessions
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile, sqlite_sessions
from tests.unit.serving.manifests import manifest as made_up_manifest

Key = tuple[str, str]


def made_up_geometry(manifest: Manifest | None) -> Geometry:
    made_up = manifest or made_up_manifest()
    return Geometry(made_up.image, made_up.tower, "e" * 64)


@asynccontextmanager
async def file_sessions(
    file: SessionFile,
    live: MemorySessions,
    executor: Executor,
    *,
    lifetime_s: float = 3600.0,
    images: bool = False,
    clock: Callable[[], float] = time.time,
    manifest: Manifest | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[KeptSessions]:
    """``live`` must park."""
    geometry = made_up_geometry(manifest)
    async with sqlite_sessions(
        live, file, Keeping(lifetime_s, images, clock, observer or NullObserver()), geometry, executor
    ) as store:
        yield store


class PickledSessions:
    """A SessionStore. Turns are given by queues of futures, one for each session."""

    def __init__(
        self,
        max_sessions: int,
        max_bytes: int,
        idle_timeout_s: float,
        clock: Callable[[], float],
        *,
        lifetime_s: float = float("inf"),
    ) -> None:
        self._max_sessions, self._max_bytes = max_sessions, max_bytes
        self._idle_timeout, self._lifetime, self._clock = idle_timeout_s, lifetime_s, clock
        self._stored: dict[Key, bytes] = {}
        self._used: dict[Key, float] = {}
        self._opened: dict[Key, float] = {}
        self._ended: dict[Key, Reason] = {}
        self._queues: defaultdict[Key, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._listeners: list[Callable[[str, str], None]] = []

    async def create(self, session: Session) -> None:
        self._expire()
        key = (session.caller, session.session_id)
        if key in self._stored or key in self._ended:
            raise PreconditionFailed("used before", Reason.SESSION_ID_USED)
        stored = pickle.dumps(session)
        held = sum(len(other) for other in self._stored.values())
        if len(self._stored) >= self._max_sessions or held + len(stored) > self._max_bytes:
            raise Exhausted("the store is full")
        self._stored[key] = stored
        self._used[key] = self._opened[key] = self._clock()

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        return self._exclusive((caller, session_id))

    @asynccontextmanager
    async def _exclusive(self, key: Key) -> AsyncIterator[Session]:
        self._load(key)
        queue, ticket = self._queues[key], asyncio.get_running_loop().create_future()
        queue.append(ticket)
        try:
            if queue[0] is ticket:
                ticket.set_result(None)
            await ticket
            yield self._load(key)
        finally:
            was_first = queue[0] is ticket
            queue.remove(ticket)
            if was_first and queue:
                queue[0].set_result(None)
            self._used[key] = self._clock()

    async def commit(self, record: SessionRecord) -> None:
        key = (record.caller, record.session_id)
        now = self._load(key)
        if not self._queues[key] or now.record.version + 1 != record.version:
            raise ValueError("not the next record of a held session")
        stored = pickle.dumps(replace(now, record=record))
        others = sum(len(other) for name, other in self._stored.items() if name != key)
        if others + len(stored) > self._max_bytes:
            raise Exhausted("the store is full")
        self._stored[key] = stored

    async def read(self, session_id: str, caller: str) -> Snapshot:
        key = (caller, session_id)
        record = self._load(key).record
        self._used[key] = self._clock()
        return Snapshot(record, self.seconds_left(session_id, caller))

    async def resume(self, session_id: str, caller: str, image: SourceImage) -> None:
        self._load((caller, session_id))

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[SessionSummary]:
        self._expire()
        own = [self._load(key).record for key in self._stored if key[0] == caller]
        own.sort(key=lambda record: (record.opened_at, record.session_id), reverse=True)
        behind = [each for each in own if after is None or (each.opened_at, each.session_id) < after]
        return [
            SessionSummary.of(Snapshot(each, self.seconds_left(each.session_id, caller)))
            for each in behind[:count]
        ]

    def seconds_left(self, session_id: str, caller: str) -> float:
        key = (caller, session_id)
        if key not in self._stored:
            return 0.0
        return min(self._idle_timeout, self._opened[key] + self._lifetime - self._clock())

    async def close(self, session_id: str, caller: str) -> None:
        key = (caller, session_id)
        if self._ended.get(key) is not Reason.SESSION_CLOSED:
            self._load(key)
            self._end(key, Reason.SESSION_CLOSED)

    def on_gone(self, listener: Callable[[str, str], None]) -> None:
        self._listeners.append(listener)

    def _load(self, key: Key) -> Session:
        self._expire()
        if self._ended.get(key) is Reason.SESSION_CLOSED:
            raise PreconditionFailed("closed", Reason.SESSION_CLOSED)
        if key not in self._stored:
            raise NotFound("no such session", self._ended.get(key))
        return pickle.loads(self._stored[key])  # noqa: S301  # its own bytes

    def _expire(self) -> None:
        now = self._clock()
        for key in list(self._stored):
            idle = self._used[key] <= now - self._idle_timeout or self._opened[key] <= now - self._lifetime
            if idle and not self._queues[key]:
                self._end(key, Reason.SESSION_EXPIRED)

    def _end(self, key: Key, reason: Reason) -> None:
        del self._stored[key]
        self._ended[key] = reason
        for listener in self._listeners:
            listener(key[1], key[0])
