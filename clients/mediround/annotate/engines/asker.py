"""Items asked of one service until each is finished, as many at once as it takes, at the pace that is allowed.

Knows what a busy service means. Does not know which items there are, or what is done with outcomes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

from mediround.aio import AsyncClient
from mediround.annotate.annotating import Outcome, annotate, failed
from mediround.annotate.engines.interface import RunOptions
from mediround.annotate.engines.service import ServedRun
from mediround.annotate.errors import ItemError
from mediround.annotate.flow import AdaptiveLimit, Pace, backoff, jittered
from mediround.annotate.items import Item
from mediround.annotate.job import Run
from mediround.annotate.loading import LoadedItem
from mediround.errors import MediRoundError

_TRIES = 5
"""Of an item whose deadline passes, or whose session, or call of a ready service, is lost, each time."""
_COUNTED = ("DEADLINE_EXCEEDED", "NOT_FOUND", "SESSION_EXPIRED", "SESSION_CLOSED")
_BROKEN = "UNAVAILABLE"
_LONGEST_WAIT = 60.0
_READY_SECONDS = 5.0


class Asker:
    """Of one event loop. What it waits for now is in ``waiting``, empty for nothing."""

    def __init__(
        self,
        client: AsyncClient,
        run: Run,
        options: RunOptions,
        *,
        stops_within: Callable[[float], Awaitable[bool]],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            stops_within: waits so many seconds, less where the run is stopped meanwhile; whether it is.
            told: called when a wait begins.
        """
        self._client, self._run, self._options = client, run, options
        self._served = ServedRun(client, run)
        self._stops_within, self._told = stops_within, told
        self._limit = AdaptiveLimit(options.in_flight)
        self._pace = Pace(options.rate, options.window, _minute_of_day)
        self.waiting = ""

    @property
    def in_flight(self) -> int:
        return self._limit.held

    async def begin(self) -> None:
        """As ``ServedRun.begin``."""
        await self._served.begin()

    async def may_begin(self, item: Item) -> bool:
        """Wait for the hour and the rate; False: the run is stopped."""
        while True:
            seconds, self.waiting = self._pace.wait(time.monotonic(), len(item.questions))
            if not seconds:
                return True
            self._told()
            if await self._stops_within(min(seconds, _LONGEST_WAIT)):
                return False

    async def finished(self, item: Item, loading: Awaitable[LoadedItem]) -> Outcome | None:
        """Ask it until it is finished; None: the run is stopped before. Raises OtherRun."""
        try:
            loaded = await loading
        except ItemError as error:
            return _after(0, failed(item, self._run.key, error.code, str(error)))
        asked = tries = unnamed = broken = 0
        again = False
        while True:
            outcome, ready = await self._asked(item, loaded, again=again, alone=broken > 0)
            asked += 1
            if outcome.status != "busy":
                await self._served.check(outcome)
                return _after(asked, outcome)
            tries += outcome.code in _COUNTED
            broken += ready and outcome.code == _BROKEN and not outcome.named
            if tries + broken >= _TRIES:
                words = "the service did not finish it, again and again: allow more time with --timeout"
                broke = "the service was ready and broke off, again and again: its log may say why"
                words = f"{broke if outcome.code == _BROKEN else words}; then `run --retry-failed`"
                return _after(asked, failed(item, self._run.key, outcome.code, words))
            again = again or not outcome.named
            unnamed = 0 if outcome.named else unnamed + 1
            seconds = outcome.wait if outcome.named else backoff(unnamed)
            self.waiting = "service"
            self._told()
            if await self._stops_within(min(jittered(seconds), _LONGEST_WAIT)):
                return None
            self.waiting = ""

    async def _asked(self, item: Item, loaded: LoadedItem, *, again: bool, alone: bool) -> tuple[Outcome, bool]:
        """What came of it, and whether the service was ready just before.

        Args:
            again: it was asked in vain; else nobody looks whether the service is ready.
            alone: beside nothing else of this process, which might be what breaks the service off.
        """
        await self._limit.take(alone=alone)
        refused = False
        try:
            ready = again and await self._is_ready()
            outcome = await annotate(self._client, item, loaded, self._options.asking)
            if outcome.status == "failed":
                outcome = await self._served.confirmed(item, outcome)
            refused = outcome.status == "busy"
            return outcome, ready
        finally:
            await self._limit.give_back(refused=refused, alone=alone)

    async def _is_ready(self) -> bool:
        try:
            await self._client.ping(timeout=_READY_SECONDS)
        except MediRoundError:
            return False
        return True


def _after(asked: int, outcome: Outcome) -> Outcome:
    """Of an item that was asked so often."""
    return replace(outcome, rows=tuple(replace(row, attempts=asked) for row in outcome.rows))


def _minute_of_day() -> float:
    now = datetime.now().astimezone()
    return now.hour * 60 + now.minute + now.second / 60
