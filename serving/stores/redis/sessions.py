"""The store of sessions that are kept in a Redis, put together.

Knows which Redis, and how it is used. Does not know what is in memory, or when.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serving.stores.kept.parts import Parts
from serving.stores.kept.records import StoreLimits
from serving.stores.kept.seal import Seal
from serving.stores.kept.sessions import Derivation, Keeping, KeptSessions
from serving.stores.redis.connection import Connection, RedisAddress
from serving.stores.redis.records import RedisRecords
from serving.stores.redis.server import Durability, check
from serving.stores.sessions import MemorySessions


@dataclass(frozen=True, slots=True)
class SessionRedis:
    """Which Redis, and how it is used."""

    address: RedisAddress
    durability: Durability = "process"
    limits: StoreLimits = field(default_factory=StoreLimits)
    key: bytes | None = None
    """32 bytes; None: nothing is encrypted."""
    encoder: str | None = None
    """What images are encoded by, where it must be the same in all servers at work there."""


@asynccontextmanager
async def redis_sessions(
    live: MemorySessions, place: SessionRedis, keeping: Keeping, derivation: Derivation, executor: Executor
) -> AsyncIterator[KeptSessions]:
    """The sessions of a Redis while the block runs; see ``KeptSessions``.

    Raises:
        ValueError: the Redis cannot be used; see ``server.check``.
    """
    parts = Parts(Seal(place.key))
    connection = Connection(place.address, keeping.observer)
    records = RedisRecords(connection, parts, place.limits, keeping.lifetime_s, place.encoder)
    store = KeptSessions(live, records, keeping, derivation, executor)
    try:
        await connection.first(lambda client: check(client, place.durability, parts, place.encoder))
        yield store
    finally:
        await store.stop()
