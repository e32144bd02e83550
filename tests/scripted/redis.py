"""A real Redis for tests: Debian's ``redis-server``, a child of the test process, without a file of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from serving.bundle import Manifest
from serving.observer import NullObserver, Observer
from serving.stores.kept.sessions import Keeping, KeptSessions
from serving.stores.redis.connection import RedisAddress
from serving.stores.redis.sessions import SessionRedis, redis_sessions
from serving.stores.sessions import MemorySessions
from tests.scripted.sessions import made_up_geometry

SERVER = shutil.which("redis-server")
NEEDED = pytest.mark.skipif(SERVER is None, reason="redis-server is not installed (make debian)")


@dataclass
class Running:
    """A Redis that runs."""

    url: str
    process: subprocess.Popen[bytes]
    client: redis.Redis = field(repr=False)

    def place(self, **options: object) -> SessionRedis:
        """Its database, emptied by nobody."""
        address = RedisAddress(self.url, patience_s=options.pop("patience_s", 5.0))
        return SessionRedis(**({"address": address, "key": bytes(32)} | options))


@contextmanager
def running(directory: Path, *flags: str) -> Iterator[Running]:
    """One on a socket in ``directory``, which must have a short name."""
    if SERVER is None:
        pytest.skip("redis-server is not installed (make debian)")
    socket = directory / "redis.sock"
    command = [SERVER, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory), *flags]
    with (directory / "redis.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"unix://{socket}?db=0"
    client = redis.Redis.from_url(url)
    try:
        _wait(client)
        yield Running(url, process, client)
    finally:
        client.close()
        process.kill()
        process.wait()


def _wait(client: redis.Redis) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@asynccontextmanager
async def kept(
    place: SessionRedis,
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
    keeping, geometry = Keeping(lifetime_s, images, clock, observer or NullObserver()), made_up_geometry(manifest)
    async with redis_sessions(live, place, keeping, geometry, executor) as store:
        yield store
