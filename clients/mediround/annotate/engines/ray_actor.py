"""An actor of the Ray engine: it asks the items of a block, all in one event loop of its own.

Knows one actor's share of a run. Does not know Ray, nor other actors.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from mediround.aio import AsyncClient
from mediround.annotate.engines.asker import Asker
from mediround.annotate.engines.interface import RunOptions
from mediround.annotate.errors import JobError
from mediround.annotate.flow import ByteBudget
from mediround.annotate.index import finished_since
from mediround.annotate.items import Item
from mediround.annotate.job import Run
from mediround.annotate.loading import content_name, load
from mediround.annotate.manifest import items_of
from mediround.annotate.recording import Recorder
from mediround.annotate.rows import Row
from mediround.annotate.waiting import Threads, cancelled, first

_LOOK_SECONDS = 1.0
_READ_AHEAD_BYTES = 256 << 20
_PERHAPS_REPEATED = 8
"""Blocks of an actor that is made anew in place of one that was lost: Ray gives it those that the other had, also
the one that it was in the midst of, in any order.
"""

NOT_SHARED = "the job's folder must be at the same path on each node of the cluster, and a node does not have it"


def flag_of(left: Path) -> Path:
    """The file that asks actors to stop, once it is there."""
    return left.with_suffix(".stop")


class Annotator:
    """Asks the items of a block, and writes parts of the index."""

    def __init__(self, run: Run, folder: Path, options: RunOptions, left: Path, began: datetime) -> None:
        """
        Args:
            left: the file of what is to be asked, which lies in the job's folder.
            began: when this start of the run did.
        """
        self._run, self._folder, self._options = run, folder, options
        self._left, self._flag = left, flag_of(left)
        self._began, self._blocks = began, 0
        self._loop = asyncio.new_event_loop()
        self._client: AsyncClient | None = None
        self._asker: Asker | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        items = items_of(block)
        self._blocks += 1
        if self._blocks <= _PERHAPS_REPEATED:
            kept = finished_since(self._folder, self._began, {item.item_id for item in items})
            items = [item for item in items if item.item_id not in kept]
        self._loop.run_until_complete(self._annotate(items))
        return pa.table({"items": [block.num_rows]})

    def close(self) -> None:
        """Where its process does not end with it."""
        if self._client is not None:
            self._loop.run_until_complete(self._client.close())
        self._loop.close()

    async def _annotate(self, items: list[Item]) -> None:
        asker = await self._begun()
        ahead, bytes_ahead = asyncio.Semaphore(2 * self._options.in_flight), ByteBudget(_READ_AHEAD_BYTES)
        recorder, reading = Recorder(self._folder, _Unread()), Threads(self._options.in_flight)

        async def one(item: Item) -> None:
            async with ahead:
                if self._flag.exists() or not await asker.may_begin(item):
                    return
                await bytes_ahead.take(item.size, content_name(item))
                try:
                    outcome = await asker.finished(item, reading.run(load, item))
                finally:
                    await bytes_ahead.give_back(item.size, content_name(item))
                if outcome is not None:
                    await recorder.add(outcome)

        recording = asyncio.create_task(recorder.run())
        asking = [asyncio.create_task(one(item)) for item in items]
        try:
            await first(set(asking), {recording})
        finally:
            await cancelled(*asking)
            recorder.end()
            await recording

    async def _begun(self) -> Asker:
        """Made in the actor's own loop. Raises JobError: what it would write lies in no folder of the job's."""
        if self._asker is None:
            if not self._left.exists():
                raise JobError(NOT_SHARED)
            self._client = AsyncClient(self._options.server, tls=self._options.tls, retries=0)
            self._asker = Asker(self._client, self._run, self._options, stops_within=self._stops_within)
            await self._asker.begin()
        return self._asker

    async def _stops_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not self._flag.exists():
            left = until - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, _LOOK_SECONDS))
        return True


class _Unread:
    """In place of a ledger: the driver reads what the parts say."""

    def add(self, part: Path, rows: list[Row]) -> None:
        """Nothing."""
