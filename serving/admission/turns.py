"""Turns at one kind of work: a number of them at once; the others wait, interactive ones first.

A turn is for work alone: who still waits for its caller has not asked for one yet. Knows priorities and the order
of arrival. Does not know what the work is, or how long it takes. All on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.domain import Priority
from serving.errors import Exhausted, Shed

_RETRY_AFTER_S = 1.0


class Turns:
    """Batch work has at most half of the turns, and the next one only when no interactive work waits."""

    def __init__(self, at_once: int, max_waiting: int, work: str, reason: Shed) -> None:
        """``work`` names the work in the error, for example ``images``; ``reason`` in metrics."""
        self._at_once, self._max_waiting, self._work, self._reason = at_once, max_waiting, work, reason
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}
        self._working = dict.fromkeys(Priority, 0)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def in_use(self) -> int:
        return sum(self._working.values())

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[None]:
        """Hold a turn while the block runs; cancelling the task leaves the queue.

        Raises:
            Exhausted: too many wait already.
        """
        if self.waiting >= self._max_waiting:
            raise Exhausted(f"{self.waiting} {self._work} wait already", _RETRY_AFTER_S, self._reason)
        ticket = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(ticket)
        self._let_in()
        try:
            await ticket
            yield
        finally:
            if ticket in self._waiting[priority]:
                self._waiting[priority].remove(ticket)
            else:
                self._working[priority] -= 1
            self._let_in()

    def _let_in(self) -> None:
        for priority, most in (
            (Priority.INTERACTIVE, self._at_once),
            (Priority.BATCH, max(1, self._at_once // 2)),
        ):
            queue = self._waiting[priority]
            while queue and self.in_use < self._at_once and self._working[priority] < most:
                ticket = queue.popleft()
                self._working[priority] += 1
                if not ticket.done():  # one whose task is being cancelled gives its turn back by itself
                    ticket.set_result(None)
