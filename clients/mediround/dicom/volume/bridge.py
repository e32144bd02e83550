"""An asynchronous generator, stepped through by a thread that blocks.

Knows event loops and threads. Does not know what is generated.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


def stepped(generator: AsyncGenerator[T], workers: int) -> Generator[T]:
    """What the generator yields. It runs in a loop of its own, in a thread of its own, since the caller may be in
    a running loop, as a notebook is; ``asyncio.to_thread`` there has so many ``workers``.

    It is at work while the caller is, too. Where the caller leaves, it is closed, and threads are waited for.
    """
    loop, steps = asyncio.new_event_loop(), _Steps(generator)
    loop.set_default_executor(ThreadPoolExecutor(workers, thread_name_prefix="mediround.dicom"))
    thread = threading.Thread(target=loop.run_forever, name="mediround.dicom", daemon=True)
    thread.start()
    try:
        while items := asyncio.run_coroutine_threadsafe(steps.step(), loop).result():
            yield items[0]
    finally:
        asyncio.run_coroutine_threadsafe(steps.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Steps(Generic[T]):
    """A generator's items, one at a time, by tasks of its loop."""

    def __init__(self, generator: AsyncGenerator[T]) -> None:
        self._generator = generator
        self._task: asyncio.Task[object] | None = None

    async def step(self) -> list[T]:
        """The next item, or none."""
        self._task = asyncio.current_task()
        try:
            return [await anext(self._generator)]
        except StopAsyncIteration:
            return []

    async def close(self) -> None:
        if self._task and not self._task.done():  # the caller was interrupted while it waited
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._generator.aclose()
        await asyncio.get_running_loop().shutdown_default_executor()
