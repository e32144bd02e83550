"""One thread that runs an engine's jobs, one after another, each of which can be stopped.

Knows cancellation: a queued job never starts, a running one is asked to stop, and the awaiting task goes on
only when nothing runs for it any more. Does not know what a job computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import onnxruntime

from serving.errors import Unavailable
from serving.runtime.tasks import wait_until_done

T = TypeVar("T")


class Stop:
    """A job's order to stop: given on the event loop, obeyed in the worker's thread.

    onnxruntime looks at ``options`` between two nodes of a graph; a job calls ``check`` between two steps.
    """

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()

    @property
    def requested(self) -> bool:
        return bool(self.options.terminate)

    def request(self) -> None:
        self.options.terminate = True

    def check(self) -> None:
        """Raises Unavailable once a stop is requested. A cancelled task never sees it; one at close does."""
        if self.requested:
            raise Unavailable("the engine is closing")


class Worker:
    """A thread of its own for one engine."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._stops: set[Stop] = set()
        self._closed = False

    async def run(self, job: Callable[[Stop], T]) -> T:
        """Run ``job`` in the thread when its turn comes.

        Raises:
            Unavailable: the worker is closed, or closes before the job ends.
        """
        if self._closed:
            raise Unavailable("the engine is closed")
        stop = Stop()
        submitted = self._executor.submit(job, stop)
        pending = asyncio.wrap_future(submitted)
        self._stops.add(stop)
        try:
            await asyncio.wait([pending])
        except asyncio.CancelledError:
            stop.request()
            submitted.cancel()
            await wait_until_done(pending)
            raise
        finally:
            self._stops.discard(stop)
        if pending.cancelled():
            raise Unavailable("the engine is closing")
        return pending.result()

    async def close(self) -> None:
        """Stop what runs, drop what waits, and end the thread. Idempotent."""
        self._closed = True
        for stop in self._stops:
            stop.request()
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
