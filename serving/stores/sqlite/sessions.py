"""The store of sessions that are kept in a file, put together.

Knows which file, and how it is written. Does not know what is in memory, or when.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from serving.stores.kept.parts import Parts
from serving.stores.kept.records import StoreLimits
from serving.stores.kept.seal import Seal
from serving.stores.kept.sessions import Derivation, Keeping, KeptSessions
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.database import Database
from serving.stores.sqlite.records import SqliteRecords
from serving.stores.sqlite.schema import Durability, connect


@dataclass(frozen=True, slots=True)
class SessionFile:
    """Which file, and how it is written."""

    path: Path
    durability: Durability = "process"
    limits: StoreLimits = field(default_factory=StoreLimits)
    key: bytes | None = None
    """32 bytes; None: nothing is encrypted."""


@asynccontextmanager
async def sqlite_sessions(
    live: MemorySessions, file: SessionFile, keeping: Keeping, derivation: Derivation, executor: Executor
) -> AsyncIterator[KeptSessions]:
    """The sessions of a file while the block runs; see ``KeptSessions``.

    Raises:
        ValueError, OSError: the file cannot be used; see ``schema.connect``.
    """
    parts = Parts(Seal(file.key))
    connection = connect(file.path, file.durability, file.limits.max_bytes, parts)
    database = Database(connection, keeping.observer)
    store = KeptSessions(live, SqliteRecords(database, parts, file.limits), keeping, derivation, executor)
    try:
        yield store
    finally:
        await store.stop()
