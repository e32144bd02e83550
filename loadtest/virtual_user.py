"""One dialogue, asked through the published client and recorded round by round.

Knows how a caller behaves: thinks, gives up, comes back when told to. Does not know when dialogues begin
(``loadtest.driver``) or what the record is for. It keeps of each answer its index alone, never a mask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from loadtest.plan import PlannedDialogue, PlannedRound
from loadtest.record import Outcome, Recording, outcome_of
from loadtest.scenario import Scenario
from mediround import (
    AsyncClient,
    AsyncSession,
    DeadlineExceeded,
    MediRoundError,
    ResourceExhausted,
    Round,
    RoundResult,
    Unavailable,
)

Sent = npt.NDArray[np.uint8] | bytes
Clock = Callable[[], float]
"""Seconds from the run's start."""
Got = TypeVar("Got")

LONGEST_WAIT = 60.0
"""Of a retry delay that a server may name."""


@dataclass(slots=True)
class Reachability:
    """Whether the server is there."""

    lost_at: float | None = None
    """Since when it could not be reached, without an answer in between; None: it can."""

    def lost(self, now: float) -> None:
        self.lost_at = now if self.lost_at is None else self.lost_at

    def made(self) -> None:
        self.lost_at = None


@dataclass(slots=True)
class _Progress:
    """Of one dialogue."""

    indices: list[int | None] = field(default_factory=list)
    """Of each round that is over, its index in the session; None where it has no mask to refer to."""
    answered: int = 0

    def refer_to(self, planned: int | None) -> int | None:
        """The planned reference, or, where that round came to nothing, the newest one that did not."""
        if planned is None:
            return None
        found = self.indices[planned]
        return found if found is not None else next((i for i in reversed(self.indices) if i is not None), None)


@dataclass(slots=True)
class VirtualUser:
    client: AsyncClient
    scenario: Scenario
    record: Recording
    clock: Clock
    contact: Reachability = field(default_factory=Reachability)

    async def ask(self, dialogue: PlannedDialogue, image: Sent) -> None:
        """Ask all of it; what goes wrong is recorded, not raised."""
        known = self.scenario.dialogues.mode == "known"
        done = 0
        try:
            done = await (self._known(dialogue, image) if known else self._live(dialogue, image))
        except asyncio.CancelledError:
            self._rest(dialogue, Outcome.UNFINISHED)
            raise
        self._rest(dialogue, Outcome.ABANDONED, done)

    def _rest(self, dialogue: PlannedDialogue, outcome: Outcome, begin: int = 0) -> None:
        """End the rounds from ``begin`` on that have not ended."""
        for row in range(dialogue.row + begin, dialogue.row + len(dialogue.rounds)):
            if self.record.rows["outcome"][row] == Outcome.NOT_ASKED:
                self.record.end(row, self.clock(), outcome)

    # Live: the returned number of rounds is over, the others are not asked.

    async def _live(self, dialogue: PlannedDialogue, image: Sent) -> int:
        self.record.sent(dialogue.row, dialogue.start, self.clock(), dialogue.start)
        session = await self._opened(dialogue, image)
        if session is None:
            return 1
        async with session:
            return await self._rounds(dialogue, session)

    async def _rounds(self, dialogue: PlannedDialogue, session: AsyncSession) -> int:
        progress, free_at = _Progress(), self.clock()
        for number, asked in enumerate(dialogue.rounds):
            row = dialogue.row + number
            if number or asked.think:
                by_schedule = self.scenario.dialogues.pace == "schedule"
                due = asked.due if by_schedule else free_at + asked.think
                await self._until(due)
                self.record.sent(row, due, self.clock(), max(due, free_at))
            try:
                await self._round(dialogue, number, session, progress)
            except MediRoundError as error:
                outcome = _outcome(asked, error)
                self.record.end(row, self.clock(), outcome)
                if outcome is not Outcome.HURRIED:
                    return number + 1
                progress.indices.append(None)
            except TimeoutError:
                self.record.end(row, self.clock(), Outcome.CANCELLED)
                progress.indices.append(None)
            free_at = self.clock()
        return len(dialogue.rounds)

    async def _round(
        self, dialogue: PlannedDialogue, number: int, session: AsyncSession, progress: _Progress
    ) -> None:
        """Raises TimeoutError when it was given up as planned."""
        asked = dialogue.rounds[number]

        def call(timeout: float) -> Awaitable[RoundResult]:
            return session.ask(
                asked.question,
                refer_to=progress.refer_to(asked.refer_to),
                mode=self.scenario.dialogues.answers,
                answer=self._answer(asked),
                priority="batch" if dialogue.batch else "interactive",
                timeout=timeout,
            )

        async with asyncio.timeout(asked.cancel_after):
            result = await self._patiently(call, asked.deadline)
        self.record.answer(dialogue.row + number, self.clock(), result)
        progress.indices.append(None if result.mask is None else result.index)

    # Known in advance: one call, whose rounds are all due at the dialogue's start.

    async def _known(self, dialogue: PlannedDialogue, image: Sent) -> int:
        now, ending = self.clock(), dialogue.rounds[0]
        for row in range(dialogue.row, dialogue.row + len(dialogue.rounds)):
            self.record.sent(row, dialogue.start, now, dialogue.start)
        progress = _Progress()
        session = await self._opened(dialogue, image)
        if session is None:
            return 1

        def call(timeout: float) -> Awaitable[None]:
            return self._stream(dialogue, session, progress, timeout)

        try:
            async with session, asyncio.timeout(ending.cancel_after):
                await self._patiently(call, ending.deadline, lambda: progress.answered)
        except TimeoutError:
            self._rest(dialogue, Outcome.CANCELLED)
        except MediRoundError as error:
            outcome = _outcome(ending, error)
            if outcome is not Outcome.HURRIED:
                self.record.end(dialogue.row + progress.answered, self.clock(), outcome)
                return progress.answered + 1
            self._rest(dialogue, outcome)
        return len(dialogue.rounds)

    async def _stream(
        self, dialogue: PlannedDialogue, session: AsyncSession, progress: _Progress, within: float
    ) -> None:
        results = session.segment(
            self._questions(dialogue.rounds),
            priority="batch" if dialogue.batch else "interactive",
            timeout=within,
        )
        async with aclosing(results):
            async for result in results:
                self.record.answer(dialogue.row + progress.answered, self.clock(), result)
                progress.answered += 1

    def _questions(self, rounds: Sequence[PlannedRound]) -> list[Round]:
        mode = self.scenario.dialogues.answers
        return [Round(asked.question, asked.refer_to, mode, self._answer(asked)) for asked in rounds]

    def _answer(self, asked: PlannedRound) -> str | None:
        return asked.answer if self.scenario.dialogues.answers == "forced" else None

    # Of every call.

    async def _opened(self, dialogue: PlannedDialogue, image: Sent) -> AsyncSession | None:
        """None: it failed, and the first round with it. No deadline of a round holds here."""
        try:
            return await self._patiently(lambda timeout: self.client.open(image, timeout=timeout))
        except MediRoundError as error:
            self.record.end(dialogue.row, self.clock(), outcome_of(error))
            return None

    async def _patiently(
        self,
        call: Callable[[float], Awaitable[Got]],
        within: float | None = None,
        begun: Callable[[], int] = lambda: 0,
    ) -> Got:
        """The result of ``call``, which is given its timeout, after as many attempts as the scenario allows.

        ``within``: seconds for all attempts and the waits between; None: each may take the ordinary timeout.
        ``begun``: above 0 when it is not to be tried again.
        """
        calls = self.scenario.calls
        ends = None if within is None else self.clock() + within
        for attempt in range(1, calls.attempts + 1):
            try:
                got = await call(calls.timeout if ends is None else max(0.0, ends - self.clock()))
            except (ResourceExhausted, Unavailable) as busy:
                self.record.told_to_retry += 1
                if isinstance(busy, Unavailable):
                    self.contact.lost(self.clock())
                else:
                    self.contact.made()
                wait = min(busy.retry_after, LONGEST_WAIT)
                in_vain = ends is not None and self.clock() + wait >= ends
                if calls.retry == "count" or attempt == calls.attempts or begun() or in_vain:
                    raise
                self.record.retried += 1
                await asyncio.sleep(wait)
            else:
                self.contact.made()
                return got
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _until(self, due: float) -> None:
        await asyncio.sleep(max(0.0, due - self.clock()))


def _outcome(asked: PlannedRound, error: MediRoundError) -> Outcome:
    """A hurried round is given up as planned when its deadline passed, or the server said that it would."""
    if asked.deadline is not None and isinstance(error, (DeadlineExceeded, ResourceExhausted)):
        return Outcome.HURRIED
    return outcome_of(error)
