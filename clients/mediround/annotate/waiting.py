"""Waiting in an event loop: for the first of several tasks, and for blocking work in threads that nobody joins.

Knows tasks and threads. Does not know what they do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """Blocking work, so much of it at once, each in a thread of its own.

    asyncio's executor is shared with all else of the loop, and joined at its end and at the process's: one read
    that stalls would hold up who waits for a thread, and the end. These threads hold up neither.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)

    async def run(self, work: Callable[P, R], *given: P.args, **named: P.kwargs) -> R:
        """Raises what ``work`` does. Cancelled, it does not wait for it, nor end it."""

        def done() -> None:
            try:
                result = work(*given, **named)
            except BaseException as error:  # told to who waits for it
                future.set_exception(error)
            else:
                future.set_result(result)

        future: Future[R] = Future()
        async with self._free:
            future.set_running_or_notify_cancel()
            threading.Thread(target=done, name="blocking", daemon=True).start()
            return await asyncio.wrap_future(future)


async def first(
    all_of: set[asyncio.Task[None]], any_of: set[asyncio.Task[None]], within: float | None = None
) -> set[asyncio.Task[None]]:
    """Wait until ``all_of`` are done, or one of ``any_of`` is, or one fails, whose error is raised; those of
    ``any_of`` that are done.

    Args:
        within: seconds, in all.
    """
    until = None if within is None else asyncio.get_running_loop().time() + within
    pending = set(all_of)
    while pending:
        left = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait(pending | any_of, timeout=left, return_when="FIRST_COMPLETED")
        for task in done & pending:
            task.result()
        if not done or done & any_of:
            return done & any_of
        pending -= done
    return set()


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and wait until they are over; whatever came of them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
