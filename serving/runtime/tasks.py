"""Waiting that survives cancellation.

Knows asyncio's cancellation. Does not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")


async def run_in_executor(executor: Executor, work: Callable[[], T]) -> T:
    """What ``work`` returns in a thread.

    When the caller is cancelled, work that is still queued never begins; for work that runs, the caller waits.
    """
    submitted = executor.submit(work)
    working = asyncio.wrap_future(submitted)
    try:
        await asyncio.wait([working])
    except asyncio.CancelledError:
        submitted.cancel()
        await wait_until_done(working)
        raise
    return working.result()


async def ahead(source: AsyncGenerator[T], beside: asyncio.Queue[list[U]] | None = None) -> AsyncGenerator[T | U]:
    """Yields what ``source`` yields, which runs ahead of the reader: what is not yet taken is kept here.

    What others put into ``beside``, each in a list of one, is yielded in its order among the rest. An error of the
    source is raised after all that it yielded. Closing this closes the source.
    """
    ready: asyncio.Queue[Any] = beside or asyncio.Queue()  # lists of one; an empty one ends it

    async def run() -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    ready.put_nowait([item])
        finally:
            ready.put_nowait([])

    running = asyncio.create_task(run())
    try:
        while item := await ready.get():
            yield item[0]
        await running
    finally:
        running.cancel()
        await wait_until_done(running)


async def wait_until_done(future: asyncio.Future[Any]) -> None:
    """Return when ``future`` is done, however often the waiting task is cancelled meanwhile.

    For the end of a cancelled request: the caller re-raises its own CancelledError afterwards. The
    future's result or error is left unread, and counts as seen.
    """
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue  # already on the way out: what still runs must not outlive this call
    if not future.cancelled():
        future.exception()
