"""Where servers of a test keep sessions in a real Redis, and what they ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import redis as library

from serving.observer import Observer
from serving.ports import SessionStore
from serving.stores.kept.sessions import KeptSessions
from serving.stores.sessions import MemorySessions
from tests.scripted import redis
from tests.scripted.pictures import append
from tests.unit.serving.kept import CALLER, MODEL, answered

IDLE, LIFETIME = 60.0, 3600.0


@dataclass
class Place:
    """Where servers of a test keep sessions, and their clock."""

    server: redis.Running
    executor: Executor
    now: float = 1_000_000.0

    @property
    def client(self) -> library.Redis:
        return self.server.client

    @asynccontextmanager
    async def opened(
        self, *, images: bool = False, observer: Observer | None = None, **place: object
    ) -> AsyncIterator[KeptSessions]:
        clock = lambda: self.now  # noqa: E731
        live = MemorySessions(8, 1 << 26, IDLE, clock, lifetime_s=LIFETIME, parks=True)
        where, times = self.server.place(**place), {"lifetime_s": LIFETIME, "clock": clock}
        async with redis.kept(
            where, live, self.executor, images=images, manifest=MODEL, observer=observer, **times
        ) as store:
            yield store


async def rounds_of(store: SessionStore, session_id: str = "s") -> int:
    async with store.exclusive(session_id, CALLER) as held:
        return len(held.rounds)


async def asked(store: SessionStore, number: int = 1, session_id: str = "s") -> None:
    async with store.exclusive(session_id, CALLER) as held:
        await append(store, held, [answered(number)])
