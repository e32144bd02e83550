"""How fast items are begun: as many as the service takes, at most so many a second, within hours of the day.

Knows limits and time. Does not know items or the service's calls.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

_LEAST, _GROWTH, _CUT = 1.0, 1.0, 0.7
"""Of the limit: items at once; growth in items for each limit's worth of answers; factor of a refusal."""
_MINUTES_A_DAY = 24 * 60
_LONGEST_BACKOFF = 30.0
"""Seconds between tries of a service that does not say when to come again."""
_JITTER = 0.5
"""Share of a wait that is drawn, so that those who were refused together do not come again together."""


class AdaptiveLimit:
    """Permits for items under way: fewer after a refusal, more while all is well (AIMD)."""

    def __init__(self, most: int) -> None:
        self._most, self._limit, self._held = most, float(most), 0
        self._lone = 0
        self._free = asyncio.Condition()
        self._cut_at = 0.0

    @property
    def held(self) -> int:
        return self._held

    @property
    def limit(self) -> float:
        """Items that may be under way."""
        return self._limit

    async def take(self, *, alone: bool = False) -> None:
        """``alone``: nothing else is under way until it is given back, for which nothing more is begun now."""
        async with self._free:
            self._lone += alone
            try:
                await self._free.wait_for(
                    lambda: self._held < (1 if alone else not self._lone and int(self._limit))
                )
            except asyncio.CancelledError:
                self._lone -= alone
                self._free.notify_all()
                raise
            self._held += 1

    async def give_back(self, *, refused: bool, alone: bool = False) -> None:
        """``refused``: the service had no room for it; ``alone``: as it was taken."""
        async with self._free:
            self._held -= 1
            self._lone -= alone
            now = asyncio.get_running_loop().time()
            if refused:
                # Of those that were sent together all but the first say nothing new.
                if now - self._cut_at > 1.0:
                    self._limit, self._cut_at = max(_LEAST, self._limit * _CUT), now
            else:
                self._limit = min(float(self._most), self._limit + _GROWTH / self._limit)
            self._free.notify_all()


class ByteBudget:
    """Bytes that may be held at once; one holder always may, however large. What holders have in common, which
    ``of`` names, counts once; empty: a holder has its bytes alone.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._holders = Counter[str]()
        self._free = asyncio.Condition()

    async def take(self, size: int, of: str = "") -> None:
        def fits() -> bool:
            return bool(self._holders[of]) or not self._held or self._held + size <= self._most

        async with self._free:
            await self._free.wait_for(fits)
            self._held += 0 if self._holders[of] else size
            self._holders[of] += bool(of)

    async def give_back(self, size: int, of: str = "") -> None:
        async with self._free:
            self._holders[of] -= bool(of)
            if not self._holders[of]:
                del self._holders[of]
                self._held -= size
            self._free.notify_all()


@dataclass(slots=True)
class Breaker:
    """Gives a run up when too many of its items fail.

    Attributes:
        most: items that may fail; None: any number.
        share: of those finished, 0 to 1, that may fail; None: all.
        least: finished before a share says something.
    """

    most: int | None
    share: float | None
    least: int = 20
    finished: int = 0
    failed: int = 0

    def count(self, *, failed: bool) -> str:
        """Why the run must be given up; empty: it goes on."""
        self.finished += 1
        self.failed += failed
        if self.most is not None and self.failed > self.most:
            return f"{self.failed} items failed, more than --max-failures {self.most}"
        if self.share is not None and self.finished >= self.least and self.failed > self.share * self.finished:
            return f"{self.failed} of {self.finished} items failed, more than --max-failures {self.share:.0%}"
        return ""


@dataclass(slots=True)
class Pace:
    """When the next item may be begun.

    Attributes:
        rate: most rounds a second; None: any.
        hours: (begin, end) in minutes of the day; an end before its begin is of the next day. None: always.
        minute: the minute of the day now, local time, with its fraction.
    """

    rate: float | None
    hours: tuple[int, int] | None
    minute: Callable[[], float]
    _next: float = field(default=0.0, init=False)

    def wait(self, now: float, rounds: int) -> tuple[float, str]:
        """Seconds to wait and why (``window``, ``rate``); 0 takes the place of one item.

        Args:
            now: seconds of a monotonic clock.
            rounds: of the item: what comes after it waits for them.
        """
        if closed := self._closed():
            return closed, "window"
        if self.rate is None:
            return 0.0, ""
        if now < self._next:
            return self._next - now, "rate"
        # What was not used is lost, but for one item: a pause is not made good by a burst.
        taken = rounds / self.rate
        self._next = max(self._next, now - taken) + taken
        return 0.0, ""

    def _closed(self) -> float:
        if self.hours is None:
            return 0.0
        begin, end = self.hours
        minute = self.minute()
        open_for, since = (end - begin) % _MINUTES_A_DAY, (minute - begin) % _MINUTES_A_DAY
        return 0.0 if since < open_for else (_MINUTES_A_DAY - since) * 60


def jittered(seconds: float) -> float:
    """At least so many, and up to half as many more."""
    return seconds * (1 + _JITTER * random.random())  # noqa: S311  # spreads load, guards nothing


def backoff(tries: int) -> float:
    """Seconds before a service that named none is asked again, after so many tries in a row, from 1."""
    return min(_LONGEST_BACKOFF, 2.0 ** min(tries - 1, 16))
