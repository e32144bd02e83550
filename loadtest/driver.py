"""The open loop: dialogues begin when the plan says, whether or not earlier ones are answered.

Knows when dialogues begin and how late this side was. Does not know what is asked. One event loop in one thread,
and a second thread that makes images ahead of time; what is under way at once is bounded by the scenario.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from loadtest.images import ImageMaker
from loadtest.plan import Plan, PlannedDialogue
from loadtest.record import Outcome
from loadtest.virtual_user import Sent, VirtualUser
from mediround import MediRoundError, ServerDescription

TICK = 0.02
"""Seconds between two looks at how late the event loop wakes."""
GONE = 10.0
"""Seconds without contact after which the rest is not asked."""
_MARGIN = 5.0
_GRACE = 3.0

Progress = Callable[[float, int], None]
"""Told of the seconds that passed, and of dialogues under way."""


class RunClock:
    """Seconds from the moment it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._began


@dataclass(slots=True)
class Driven:
    """What the generator says of itself."""

    seconds: float = 0.0
    dropped: int = 0
    """Dialogues that were not sent, since too many were open."""
    most_open: int = 0
    target_gone: bool = False
    wakes: array[float] = field(default_factory=lambda: array("d"))
    """How late the event loop woke, each tick; seconds."""


Answering = Callable[[], Awaitable[ServerDescription]]


class Driver:
    """Runs one plan."""

    def __init__(self, plan: Plan, maker: ImageMaker, asker: VirtualUser, clock: Callable[[], float]) -> None:
        self._plan, self._maker, self._asker, self._clock = plan, maker, asker, clock
        self._open: set[asyncio.Task[None]] = set()
        self._driven = Driven()
        self._begun = 0
        self._faults: list[BaseException] = []

    async def drive(self, probe: Answering, progress: Progress | None = None) -> Driven:
        """Run the plan until each round that was due in the time measured is over, or the target is gone."""
        waiting: asyncio.Queue[tuple[PlannedDialogue, Sent]] = asyncio.Queue(self._maker.ahead)
        beside = [asyncio.create_task(self._make(waiting)), asyncio.create_task(self._watch(progress))]
        run = asyncio.create_task(self._run(waiting))
        gone = asyncio.create_task(self._gone(probe))
        try:
            finished, _ = await asyncio.wait({run, gone, *beside}, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()  # raises what it raised
        finally:
            await _ended([*beside, run, gone, *self._open])
        for fault in self._faults:
            raise fault  # a fault of this program: the record cannot be trusted
        self._driven.target_gone = not gone.cancelled()
        self._driven.seconds = self._clock()
        self._plan_the_rest()
        return self._driven

    async def _run(self, waiting: asyncio.Queue[tuple[PlannedDialogue, Sent]]) -> None:
        await self._start(waiting)
        arrivals, timeout = self._asker.scenario.arrivals, self._asker.scenario.calls.timeout
        last = max(arrivals.ends, self._clock()) + timeout + _MARGIN
        while self._open and self._asker.record.waits(arrivals.begins, arrivals.ends) and self._clock() < last:
            await asyncio.wait(self._open, timeout=0.1)

    async def _start(self, waiting: asyncio.Queue[tuple[PlannedDialogue, Sent]]) -> None:
        max_open = self._asker.scenario.generator.max_open
        while self._begun < len(self._plan):
            dialogue, image = await waiting.get()
            await asyncio.sleep(max(0.0, dialogue.start - self._clock()))
            self._begun += 1
            self._plan_rows(dialogue)
            if len(self._open) >= max_open:
                self._drop(dialogue)
                continue
            task = asyncio.create_task(self._asker.ask(dialogue, image))
            self._open.add(task)
            task.add_done_callback(self._over)
            self._driven.most_open = max(self._driven.most_open, len(self._open))

    def _over(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and (fault := task.exception()):
            self._faults.append(fault)

    def _drop(self, dialogue: PlannedDialogue) -> None:
        for number in range(len(dialogue.rounds)):
            self._asker.record.end(dialogue.row + number, self._clock(), Outcome.DROPPED)
        self._driven.dropped += 1

    async def _make(self, waiting: asyncio.Queue[tuple[PlannedDialogue, Sent]]) -> None:
        for dialogue in self._plan:
            image = await asyncio.to_thread(self._maker.image, dialogue.image)
            await waiting.put((dialogue, image))
        await asyncio.Event().wait()  # like its neighbours it ends by being cancelled, or by a fault

    def _plan_the_rest(self) -> None:
        """Rounds that were never begun are due all the same."""
        for number in range(self._begun, len(self._plan)):
            self._plan_rows(self._plan.dialogue(number))

    def _plan_rows(self, dialogue: PlannedDialogue) -> None:
        for number, asked in enumerate(dialogue.rounds):
            self._asker.record.planned(dialogue.row + number, number, asked.due)

    async def _watch(self, progress: Progress | None) -> None:
        told = 0.0
        while True:
            due = self._clock() + TICK
            await asyncio.sleep(TICK)
            now = self._clock()
            self._driven.wakes.append(now - due)
            if progress and now - told > 0.25:
                told = now
                progress(now, len(self._open))

    async def _gone(self, probe: Answering) -> None:
        """Returns when the server could not be reached for ``GONE`` seconds, and cannot be now."""
        contact = self._asker.contact
        while True:
            await asyncio.sleep(0.5)
            if contact.lost_at is None or self._clock() - contact.lost_at < GONE:
                continue
            try:
                await probe()
            except MediRoundError:
                return
            contact.made()


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel them; again, where one still waits for a server that says nothing."""
    for _ in range(2):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_GRACE)
