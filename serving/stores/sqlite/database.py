"""One connection, and the one thread that works on it: transactions from the event loop.

Knows SQLite's errors as those of the domain. Does not know tables.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from serving.errors import ServingError, Unavailable
from serving.observer import Observer
from serving.runtime.tasks import run_in_executor
from serving.stores.kept.observed import observed
from serving.stores.kept.records import FULL, RETRY_SECONDS, UNAVAILABLE, exhausted
from serving.stores.kept.seal import Damaged
from serving.stores.sqlite.schema import transaction, words

T = TypeVar("T")

LOG = logging.getLogger(__name__)


class Database:
    """A connection that one thread works on."""

    def __init__(self, connection: sqlite3.Connection, observer: Observer) -> None:
        """``observer`` hears of each job."""
        self._connection, self._observer = connection, observer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What ``job`` returns; what it wrote is durable then, or, if it raises, is not there.

        When the caller is cancelled while it runs, it is there or it is not: wholly.

        Raises:
            Exhausted: the file is as large as it may be, or the disk is full.
            Unavailable: it is locked, read-only or damaged.
        """
        with observed(self._observer, "write"):
            return await run_in_executor(self._thread, partial(self._done, job, reads=False))

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What ``job`` returns, all of it of one moment. Raises Unavailable."""
        with observed(self._observer, "read"):
            return await run_in_executor(self._thread, partial(self._done, job, reads=True))

    async def close(self) -> None:
        """Finish what was begun, and close the file. Idempotent."""
        await asyncio.to_thread(self._thread.shutdown)
        self._connection.close()

    def _done(self, job: Callable[[sqlite3.Connection], T], *, reads: bool) -> T:
        try:
            with transaction(self._connection, reads=reads):
                return job(self._connection)
        except sqlite3.Error as error:
            raise _refusal(words(error)) from error
        except (Damaged, KeyError, TypeError, ValueError) as error:
            if not reads:
                raise  # what we write is wrong: a bug of ours
            raise _refusal(type(error).__name__) from error


def _refusal(name: str) -> ServingError:
    """Logged by SQLite's name alone: it is for who runs the server."""
    LOG.error("kept sessions: %s", name)
    if name == "SQLITE_FULL":
        return exhausted(FULL)
    return Unavailable(UNAVAILABLE, RETRY_SECONDS)
