"""The frames of a stack through the service: a bounded number at a time, each once what it follows is known.

Knows when a frame may be asked, and when to ask again. Does not know which client asks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice

from mediround._rounds import Round
from mediround.dicom.instance import Frame, LastRead
from mediround.dicom.series.stack import Stack
from mediround.dicom.volume.answers import Bits, FrameResult, Restart
from mediround.dicom.volume.dialogue import Marks, answers_of, marked, refusal, rounds_of, seeds_of
from mediround.dicom.volume.order import Order
from mediround.errors import (
    AccessDenied,
    Cancelled,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from mediround.results import RoundResult
from mediround.templates import Template
from mediround.window import WindowChoice

Ask = Callable[[Frame, list[Round]], Awaitable[list[RoundResult | None]]]
ATTEMPTS = 4
"""Times that a frame is asked where the server is busy or forgot the session; it is waited for twice as long each
time."""
_OVER = (AccessDenied, Cancelled, Unavailable)
"""After these no other frame can be asked."""


@dataclass(slots=True)
class StackRun:
    """One dialogue over one stack.

    Attributes:
        in_flight: frames under way at once.
        given: masks on the frames' own pixels, by index and question: these are not asked.
    """

    stack: Stack
    template: Template
    order: Order
    ask: Ask
    in_flight: int
    window: WindowChoice
    marks: Marks
    given: Mapping[int, Mapping[str, Bits]]
    _objects: LastRead = field(default_factory=LastRead)

    async def results(self) -> AsyncGenerator[FrameResult]:
        """Each frame's as soon as it is known; in the stack's order where none follows another. No more masks are
        held than those of the frames in flight, however many there are in all.

        Raises:
            AccessDenied, Cancelled, Unavailable: no further frame can be asked. Those that were known by then came
                first.
        """
        running: set[asyncio.Task[FrameResult]] = set()
        results = self._followed(running) if self.order.after else self._alone(running)
        try:
            async with aclosing(results):
                async for result in results:
                    yield result
        except _OVER:
            for result in _known(running):  # asked and answered: no mask is lost
                yield marked(result, None, self.marks)
            raise
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _alone(self, running: set[asyncio.Task[FrameResult]]) -> AsyncGenerator[FrameResult]:
        left, waiting, before = iter(self.order.first), deque[asyncio.Task[FrameResult]](), None
        while True:
            for index in islice(left, self.in_flight - len(waiting)):
                waiting.append(asyncio.create_task(self._frame(index, None)))
                running.add(waiting[-1])
            if not waiting:
                return
            before = marked(await waiting[0], before, self.marks)
            running.discard(waiting.popleft())
            yield before

    async def _followed(self, running: set[asyncio.Task[FrameResult]]) -> AsyncGenerator[FrameResult]:
        ready = deque[tuple[int, FrameResult | None]]((index, None) for index in self.order.first)
        before: dict[asyncio.Task[FrameResult], FrameResult | None] = {}
        while ready or running:
            while ready and len(running) < self.in_flight:
                index, earlier = ready.popleft()
                task = asyncio.create_task(self._frame(index, earlier))
                before[task] = earlier
                running.add(task)
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                result = marked(task.result(), before.pop(task), self.marks)
                # Those that follow go first: else a stack of many starts would hold as many masks.
                ready.extendleft((each, result) for each in self.order.after.get(result.index, ()))
                yield result

    async def _frame(self, index: int, before: FrameResult | None) -> FrameResult:
        try:
            frame = await asyncio.to_thread(self._read, index)
            return await self._dialogue(index, frame, before)
        except _OVER:
            raise
        except (MediRoundError, OSError) as error:
            return FrameResult(index, self.stack.frames[index], error=error)

    def _read(self, index: int) -> Frame:
        place = self.stack.frames[index]
        return self._objects.instance(place.source).frame(place.number, self.window)

    async def _dialogue(self, index: int, frame: Frame, before: FrameResult | None) -> FrameResult:
        given = self.given.get(index, {})
        seeds = seeds_of(self.template, before, given)
        follows = before.index if before and seeds else None
        results = await self._asked(frame, rounds_of(self.template, frame, seeds, follows, given))
        if index in self.order.across_gaps:
            restarted: Restart = "gap"
        else:
            restarted = "" if before is None or seeds or given else refusal(self.template, before)
        return FrameResult(
            index=index,
            frame=self.stack.frames[index],
            answers=answers_of(self.template, frame, results[len(seeds) :], given),
            window=frame.window,
            pixels=frame.record,
            follows=follows,
            restarted=restarted,
        )

    async def _asked(self, frame: Frame, rounds: list[Round]) -> list[RoundResult | None]:
        for attempt in range(ATTEMPTS - 1):
            try:
                return await self.ask(frame, rounds)
            except (ResourceExhausted, Unavailable, NotFound) as busy:  # NotFound: the server forgot the session
                await asyncio.sleep(getattr(busy, "retry_after", 1.0) * 2**attempt)
        return await self.ask(frame, rounds)


def _known(tasks: Collection[asyncio.Task[FrameResult]]) -> list[FrameResult]:
    """Of those that are over and did not fail, in the stack's order."""
    over = [each for each in tasks if each.done() and not each.cancelled() and each.exception() is None]
    return sorted((each.result() for each in over), key=lambda result: result.index)
