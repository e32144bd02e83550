"""The local engine: one process, one event loop, as many items under way as the service takes.

Knows the order of work: items in the manifest's order, read ahead in threads, asked, kept. Does not know how any
of these is done.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from mediround.aio import AsyncClient
from mediround.annotate.engines.asker import Asker
from mediround.annotate.engines.interface import STOPPED_BY_SIGNAL, Progress, RunOptions, Summary, Watch
from mediround.annotate.engines.start import Start, started
from mediround.annotate.errors import Stopped
from mediround.annotate.flow import Breaker, ByteBudget
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Finished
from mediround.annotate.loading import LoadedItem, content_name, load
from mediround.annotate.recording import Recorder
from mediround.annotate.waiting import Threads, cancelled, first

READ_AHEAD_BYTES = 256 << 20
"""Of files that are read before they are asked about."""


class LocalEngine:
    """Schedules a run's items in this process.

    Args:
        ended: why the service that is asked ended for good; done once it has. None: nobody can say.
    """

    def __init__(self, ended: Future[str] | None = None) -> None:
        self._ended = ended

    def run(self, job: Job, run: Run, options: RunOptions, watch: Watch) -> Summary:
        """As ``Engine.run``. Raises Stopped: the service has ended for good."""
        began = time.monotonic()
        with started(job, run, options) as start:
            schedule = _Schedule(start, watch, Recorder(start.folder, start.notes))
            asyncio.run(schedule.run_all(self._ended))
            if self._ended is not None and self._ended.done() and schedule.stopped == self._ended.result():
                raise Stopped(schedule.stopped)
            failures = start.left.failures()
        return Summary(schedule.progress(), time.monotonic() - began, schedule.stopped, failures)


class _Stop:
    """Why a run ends before its items do; can be waited for."""

    def __init__(self) -> None:
        self.why = ""
        self._event = asyncio.Event()

    def now(self, why: str) -> None:
        self.why = self.why or why
        self._event.set()

    async def within(self, seconds: float) -> bool:
        """Whether it comes within so many seconds."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def wait(self) -> None:
        await self._event.wait()


@dataclass(slots=True)
class _Schedule:
    """One start's items, asked and kept."""

    start: Start
    watch: Watch
    recorder: Recorder
    asker: Asker | None = None
    breaker: Breaker = field(init=False)
    ahead: ByteBudget = field(init=False)
    _reading: Threads = field(init=False)
    _stop: _Stop = field(init=False)
    _queue: asyncio.Queue[tuple[Item, asyncio.Task[LoadedItem]] | None] = field(init=False)

    @property
    def options(self) -> RunOptions:
        return self.start.options

    @property
    def stopped(self) -> str:
        return self._stop.why

    def progress(self) -> Progress:
        if self.asker is None:
            return self.start.counts.progress(0)
        return self.start.counts.progress(self.asker.in_flight, self.asker.waiting)

    async def run_all(self, ended: Future[str] | None) -> None:
        """Raises AnnotateError, MediRoundError."""
        options = self.options
        self.breaker = Breaker(options.max_failures, options.max_failure_share)
        self.ahead, self._reading = ByteBudget(READ_AHEAD_BYTES), Threads(options.in_flight)
        self._stop, self._queue = _Stop(), asyncio.Queue(options.in_flight)
        if ended is not None:
            asyncio.wrap_future(ended).add_done_callback(lambda done: self._stop.now(done.result()))
        with _signals(lambda: self._stop.now(STOPPED_BY_SIGNAL)):
            async with AsyncClient(options.server, tls=options.tls, retries=0) as client:
                self.asker = Asker(
                    client,
                    self.start.run,
                    options,
                    stops_within=self._stop.within,
                    told=lambda: self.watch(self.progress()),
                )
                if await self._has_begun(self.asker):
                    await self._side_by_side(self.asker)
        self.watch(self.progress())

    async def _has_begun(self, asker: Asker) -> bool:
        """Once the service is there; False: the run is stopped before."""
        beginning, stopping = asyncio.create_task(asker.begin()), asyncio.create_task(self._stop.wait())
        try:
            return not await first({beginning}, {stopping})
        finally:
            await cancelled(beginning, stopping)

    async def _side_by_side(self, asker: Asker) -> None:
        """Read, ask and keep; the first that cannot go on ends the others, and what is finished is kept."""
        feeding = asyncio.create_task(self._feed())
        workers = [asyncio.create_task(self._worker(asker)) for _ in range(self.options.in_flight)]
        recording = asyncio.create_task(self.recorder.run())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            done = await first({feeding, *workers}, {recording, stopping})
            if stopping in done:
                await self._pull_no_more(feeding)
                await first(set(workers), {recording}, self.options.grace)
        finally:
            await cancelled(stopping, feeding, *workers)
            await self._pull_no_more(feeding)
            self.recorder.end()
            await recording

    async def _pull_no_more(self, feeding: asyncio.Task[None]) -> None:
        """Drop what is read ahead; workers that wait for more end."""
        await cancelled(feeding)
        while not self._queue.empty():
            if (dropped := self._queue.get_nowait()) is not None:
                dropped[1].cancel()
        for _ in range(self.options.in_flight):
            self._queue.put_nowait(None)

    async def _feed(self) -> None:
        """Items that are not finished, while their files are being read."""
        for piece in self.start.left.pieces():
            for item in piece:
                await self.ahead.take(item.size, content_name(item))
                await self._queue.put((item, self._read(item)))
        for _ in range(self.options.in_flight):
            await self._queue.put(None)

    def _read(self, item: Item) -> asyncio.Task[LoadedItem]:
        """Its file, being read. A run that stops drops it, whatever came of it."""
        task = asyncio.create_task(self._reading.run(load, item))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _worker(self, asker: Asker) -> None:
        while not self.stopped and (taken := await self._queue.get()) is not None:
            item, loading = taken
            try:
                outcome = await asker.finished(item, loading) if await asker.may_begin(item) else None
            finally:
                loading.cancel()
                await self.ahead.give_back(item.size, content_name(item))
            if outcome is None:
                return
            await self.recorder.add(outcome)
            failed = outcome.status == "failed"
            answered = sum(row.status in ("mask", "no_mask") for row in outcome.rows)
            self.start.counts.add(Finished(not failed, failed), answered)
            if why := self.breaker.count(failed=failed):
                self._stop.now(why)
            self.watch(self.progress())


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT stop the run while the block runs; where no handler can be set they do what they did."""
    loop = asyncio.get_running_loop()
    handled = []
    for each in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(each, stop)
        except (RuntimeError, ValueError, NotImplementedError):  # not the main thread
            continue
        handled.append(each)
    try:
        yield
    finally:
        for each in handled:
            loop.remove_signal_handler(each)
