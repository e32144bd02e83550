"""What a scripted engine does when it is called: log it, wait at a gate, take its time, fail.

Knows operations by name. Does not know what they compute.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Script:
    """One engine's behaviour, steered by a test while the engine runs."""

    delay_s: float = 0.0
    calls: list[tuple[str, object]] = field(default_factory=list)
    """(operation, what it was asked), in the order of arrival."""
    finished: list[str] = field(default_factory=list)
    """Operations that ended without error or cancellation, in the order of their end."""
    running: Counter[str] = field(default_factory=Counter)
    """Operations that are in progress now."""
    most_running: Counter[str] = field(default_factory=Counter)
    _failures: defaultdict[str, deque[Exception | None]] = field(default_factory=lambda: defaultdict(deque))
    _gates: dict[str, asyncio.Event] = field(default_factory=dict)

    def fail_next(self, operation: str, error: Exception, after: int = 0) -> None:
        """Let the next call of ``operation`` that has no failure yet raise ``error``, after so many more."""
        self._failures[operation] += [*[None] * after, error]

    def mend(self) -> None:
        """Let no call fail any more."""
        self._failures.clear()

    def hold(self, operation: str) -> None:
        """Let calls of ``operation`` wait until ``let_go``."""
        self._gates[operation] = asyncio.Event()

    def let_go(self, operation: str) -> None:
        self._gates.pop(operation).set()

    def asked(self, operation: str) -> list[object]:
        """What each call of ``operation`` was asked."""
        return [subject for name, subject in self.calls if name == operation]

    async def reached(self, operation: str, count: int = 1) -> None:
        """Wait until ``operation`` was called ``count`` times."""
        while len(self.asked(operation)) < count:  # noqa: ASYNC110  # an event for every count says no more
            await asyncio.sleep(0.001)

    @asynccontextmanager
    async def play(self, operation: str, subject: object) -> AsyncIterator[None]:
        """Surrounds an operation's work: it waits and fails here, before the work is done."""
        self.calls.append((operation, subject))
        failure = self._failures[operation].popleft() if self._failures[operation] else None
        self.running[operation] += 1
        self.most_running[operation] = max(self.most_running[operation], self.running[operation])
        try:
            if operation in self._gates:
                await self._gates[operation].wait()
            await asyncio.sleep(self.delay_s)
            if failure:
                raise failure
            yield
            self.finished.append(operation)
        finally:
            self.running[operation] -= 1
