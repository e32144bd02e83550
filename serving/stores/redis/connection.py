"""Connections to one Redis, and the threads that work on them: jobs from the event loop.

Knows the library and its errors as those of the domain. Does not know keys.

A Redis that does not answer in time is not asked again for a while: requests for kept sessions are refused at once
then, and hold no thread that others need.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.errors import ServingError, Unavailable
from serving.observer import Observer
from serving.runtime.tasks import run_in_executor
from serving.stores.kept.observed import observed
from serving.stores.kept.records import FULL, RETRY_SECONDS, UNAVAILABLE, exhausted
from serving.stores.kept.seal import Damaged

T = TypeVar("T")

LOG = logging.getLogger(__name__)
THREADS = 8
UNKNOWN_END = (
    "the store of kept sessions did not answer: this request may have been carried out; repeat it by the same "
    "request id"
)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is, and how it is spoken to."""

    url: str
    """redis://HOST:PORT/N, rediss:// with TLS, or unix:///PATH?db=N."""
    user: str | None = None
    password: str | None = None
    ca: Path | None = None
    """PEM file of the authorities that its certificate must descend from; None: the system's."""
    certificate: Path | None = None
    """PEM file of this client's certificate chain, for mutual TLS."""
    private_key: Path | None = None
    patience_s: float = 2.0
    """How long a connection, or a reply, is waited for."""


class Connection:
    """Jobs on a client of the library, each in a thread."""

    def __init__(
        self, address: RedisAddress, observer: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connects at the first job. ``observer`` hears of each; ``clock``: seconds, never backwards."""
        self._client, self._observer = _client(address), observer
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sessions")
        self._clock = clock
        self._silent_until = 0.0

    async def first(self, job: Callable[[redis.Redis], T]) -> T:
        """What ``job`` returns, once, with the library's own errors."""
        return await run_in_executor(self._threads, partial(job, self._client))

    async def write(self, job: Callable[[redis.Redis], T]) -> T:
        """What ``job`` returns, which may be carried out twice: it must know itself again.

        When the caller is cancelled while it runs, it is there or it is not: wholly.

        Raises:
            Exhausted: the Redis has no memory left (maxmemory).
            Unavailable: it cannot be reached or does not answer; it refuses writes.
        """
        with observed(self._observer, "write"):
            return await run_in_executor(self._threads, partial(self._done, job, reads=False))

    async def read(self, job: Callable[[redis.Redis], T]) -> T:
        """What ``job`` returns. Raises Unavailable."""
        with observed(self._observer, "read"):
            return await run_in_executor(self._threads, partial(self._done, job, reads=True))

    async def close(self) -> None:
        """Finish what was begun, and close the connections. Idempotent."""
        await asyncio.to_thread(self._threads.shutdown)
        self._client.close()

    def _done(self, job: Callable[[redis.Redis], T], *, reads: bool) -> T:
        if self._clock() < self._silent_until:
            raise Unavailable(UNAVAILABLE, RETRY_SECONDS)
        try:
            return self._asked(job)
        except redis.RedisError as error:
            if isinstance(error, redis.TimeoutError):
                self._silent_until = self._clock() + RETRY_SECONDS
            raise _refusal(error, reads=reads) from None  # its message might quote what is kept
        except (Damaged, KeyError, TypeError, ValueError) as error:
            if not reads:
                raise  # what we write is wrong: a bug of ours
            LOG.error("kept sessions: %s", type(error).__name__)
            raise Unavailable(UNAVAILABLE, RETRY_SECONDS) from error

    def _asked(self, job: Callable[[redis.Redis], T]) -> T:
        try:
            return job(self._client)
        except redis.ConnectionError:  # it may have ended, and be there again, since the last job
            return job(self._client)


def _client(address: RedisAddress) -> redis.Redis:
    """Raises ValueError."""
    tls: dict[str, object] = {}
    if address.url.startswith("rediss://"):
        tls = {
            "ssl_ca_certs": address.ca and str(address.ca),
            "ssl_certfile": address.certificate and str(address.certificate),
            "ssl_keyfile": address.private_key and str(address.private_key),
        }
    return redis.Redis.from_url(
        address.url,
        username=address.user,
        password=address.password,
        socket_timeout=address.patience_s,
        socket_connect_timeout=address.patience_s,
        retry=Retry(NoBackoff(), 0),
        client_name="mediround-serving",
        **tls,
    )


def _refusal(error: redis.RedisError, *, reads: bool) -> ServingError:
    """Logged by its kind alone: it is for who runs the server."""
    LOG.error("kept sessions: redis: %s", type(error).__name__)
    if isinstance(error, redis.OutOfMemoryError):
        return exhausted(FULL)
    lost = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    return Unavailable(UNKNOWN_END if lost and not reads else UNAVAILABLE, RETRY_SECONDS)
