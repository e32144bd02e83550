"""What is finished, kept: rows gathered and written as parts of the index, then noted in the ledger.

Knows when a part is written. Does not know how items are finished.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from mediround.annotate.annotating import Outcome
from mediround.annotate.index import write_part
from mediround.annotate.rows import Row
from mediround.annotate.waiting import Threads

ITEMS_A_PART = 64
SECONDS_A_PART = 1.0
"""After the first of a part's items is finished, at the latest, it is written: what a kill may cost."""


class Notes(Protocol):
    """Is told of parts: a ledger, or where others write it, nothing."""

    def add(self, part: Path, rows: list[Row]) -> None: ...


class Recorder:
    """Keeps outcomes. ``add`` waits while what is not yet written is two parts' worth: who adds must also wait for
    ``run``, after whose error nothing is written any more.
    """

    def __init__(self, folder: Path, ledger: Notes) -> None:
        self._folder, self._ledger = folder, ledger
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._room, self._thread = asyncio.Semaphore(2 * ITEMS_A_PART), Threads(1)

    async def add(self, outcome: Outcome) -> None:
        await self._room.acquire()
        self._outcomes.put_nowait(outcome)

    def end(self) -> None:
        """What was added is kept once ``run`` returns."""
        self._outcomes.put_nowait(None)

    async def run(self) -> None:
        """Write until the end. Raises JobError: nothing more can be written."""
        loop = asyncio.get_running_loop()
        ended = False
        while not ended:
            first = await self._outcomes.get()
            if first is None:
                return
            gathered, until = [first], loop.time() + SECONDS_A_PART
            while len(gathered) < ITEMS_A_PART:
                try:
                    outcome = await asyncio.wait_for(self._outcomes.get(), max(0.0, until - loop.time()))
                except TimeoutError:
                    break
                if outcome is None:
                    ended = True
                    break
                gathered.append(outcome)
            await self._thread.run(self._keep, [row for outcome in gathered for row in outcome.rows])
            for _ in gathered:
                self._room.release()

    def _keep(self, rows: list[Row]) -> None:
        self._ledger.add(write_part(self._folder, rows), rows)
