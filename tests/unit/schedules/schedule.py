"""What the steps of a schedule share: the worlds, the model, and how a request is made, carried out and checked.

Knows what an answer must be. Does not know which steps there are (``machine``).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from serving.api.repetition import request_key
from serving.domain import (
    AnswerMode,
    Correction,
    CorrectionPolicy,
    GivenMask,
    KnownRound,
    Priority,
    Question,
    SourceImage,
)
from serving.history.record import RequestKey
from serving.history.rounds import RoundResult
from serving.sessions.keeper import NewSession
from serving.sessions.plan import DialogueRequest
from tests.scripted.pictures import mask
from tests.unit.schedules.model import ModelRound, ModelSession, told, without_id
from tests.unit.schedules.world import IMAGES, MAX_ROUNDS, World

Ask = tuple[str, int, str]
"""Words, a number that chooses what they are about, and of which kind that is."""
Answers = list[tuple[int, ModelRound]]

FORCED = "It is [SEG]."


class Schedule(RuleBasedStateMachine):
    """A world with faults, and its twin, in whose memory all happens once."""

    steps: ClassVar[Counter[str]] = Counter()
    """Of all schedules so far."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[ModelSession] = []
        self.gone: list[ModelSession] = []
        self.stale: list[tuple[ModelSession, int, KnownRound]] = []
        self.repeats: list[tuple[ModelSession, Callable[[], object], object]] = []
        self.number = 0

    @initialize(store=st.sampled_from(["file with images", "file", "memory"]))
    def begin(self, store: str) -> None:
        self.steps["schedules"] += 1
        self.directory = tempfile.TemporaryDirectory()
        self.executor = ThreadPoolExecutor(1)
        path = None if store == "memory" else Path(self.directory.name) / "sessions.db"
        self.world = World(self.executor, path, images=store == "file with images")
        self.twin = World(self.executor)

    def teardown(self) -> None:
        if hasattr(self, "twin"):
            self.world.close()
            self.twin.close()
            self.executor.shutdown()
            self.directory.cleanup()

    def _step(self, name: str) -> None:
        self.steps[name] += 1
        self.number += 1

    def _new_id(self) -> str:
        """No other schedule's, either: nothing may lead from one to the next."""
        return f"s{self.steps['schedules']}-{self.number}"

    def _key(self, method: str, session: ModelSession) -> RequestKey:
        made = request_key(f"request {self.number}", method, session.caller, session.id.encode())
        assert made is not None
        return made

    def _ask(
        self,
        step: str,
        session: ModelSession,
        asks: Sequence[Ask],
        policy: CorrectionPolicy,
        *,
        dies_after: int | None = None,
        twice: bool = False,
    ) -> None:
        """Nothing where the session has no room for so many rounds."""
        first = len(session.rounds)
        if first + len(asks) <= MAX_ROUNDS:
            self._step(step)
            questions = [self._question(session, first + n, ask) for n, ask in enumerate(asks)]
            self._answered(session, questions, policy, dies_after=dies_after, twice=twice)

    def _question(self, session: ModelSession, index: int, ask: Ask) -> Question:
        text, number, kind = ask
        drawn, refer_to = mask(number % 5), number % max(index, 1)
        mode = AnswerMode.FORCED if number % 2 else AnswerMode.FREE
        answer = FORCED if number % 2 else ""
        match kind:
            case "round" if index:
                known = session.rounds[refer_to].known if refer_to < len(session.rounds) else KnownRound()
                return Question(text, refer_to, mode, answer, known)
            case "given":
                return Question(text, None, mode, answer, given_mask=GivenMask(drawn.digest, drawn, "atlas"))
            case "seed":
                return Question(text, None, AnswerMode.FORCED, FORCED, seed_mask=drawn)
            case _:
                return Question(text, None, mode, answer)

    def _answered(
        self,
        session: ModelSession,
        questions: Sequence[Question],
        policy: CorrectionPolicy,
        *,
        dies_after: int | None,
        twice: bool,
    ) -> None:
        """Ask, check what is answered, and take it into the model."""
        correction, key = Correction(policy, 0.6), self._key("SegmentDialogue", session)
        request = DialogueRequest(session.id, session.caller, questions, correction, Priority.BATCH, key)
        before, begun = self.world.passes, Answers()
        self._wake(session)
        if dies_after is not None:
            begun = self.world.run(self._results(self.world, request, dies_after))
            self.world.kill()
            self._drop_unkept()
            self._wake(session)
        if twice:
            answers, again = self.world.run(self._both(request))
            assert answers == again, "one of them did the work"
        else:
            answers = self.world.run(self._results(self.world, request))
        assert answers[: len(begun)] == begun, "what was told before it died"
        passes, twins = self.world.passes - before, self.twin.passes
        expected = self.twin.run(self._results(self.twin, _unnamed(request)))
        assert list(map(without_id, answers)) == list(map(without_id, expected)), "as without a fault"
        assert passes == self.twin.passes - twins, "nothing is done twice"
        made = [each for _, each in answers]
        for question, each in zip(questions, made, strict=True):
            assert each.used == _used(question, [*session.rounds, *made])
        session.rounds += made
        self._remember(session, lambda: self.world.run(self._results(self.world, request)), answers)

    async def _both(self, request: DialogueRequest) -> tuple[Answers, Answers]:
        return await asyncio.gather(self._results(self.world, request), self._results(self.world, request))

    async def _results(self, world: World, request: DialogueRequest, most: int | None = None) -> Answers:
        results = list[RoundResult]()
        async with aclosing(world.orchestrator.answers(request)) as answers:
            if most != 0:
                async for result in answers:
                    results.append(result)
                    if len(results) == most:
                        break
        return [told(result) for result in results]

    def _remember(self, session: ModelSession, again: Callable[[], object], first: object) -> None:
        self.repeats.append((session, again, first))

    def _wake(self, session: ModelSession) -> None:
        """Send the image of a session that is in a file without it."""
        if self.world.path is None or self.world.images:
            return

        async def prepared() -> SourceImage:
            return IMAGES[session.image]

        again = NewSession(session.caller, session.id, bytes([session.image]) * 32)
        self.world.run(self.world.keeper.resume(again, prepared))

    def _survives(self, session: ModelSession) -> bool:
        """That the memory is lost."""
        return session.keep and self.world.path is not None

    def _drop_unkept(self) -> None:
        for session in [each for each in self.sessions if not self._survives(each)]:
            self._end(session)

    def _end(self, session: ModelSession) -> None:
        self.sessions.remove(session)
        self.gone.append(session)
        self.stale = [each for each in self.stale if each[0] is not session]
        self.repeats = [each for each in self.repeats if each[0] is not session]


def _unnamed(request: DialogueRequest) -> DialogueRequest:
    """The same for the twin, whose rounds have other ids."""
    questions = [replace(each, expected_round=KnownRound()) for each in request.questions]
    return replace(request, questions=questions, key=None)


def _used(question: Question, rounds: Sequence[ModelRound]) -> tuple[str, bytes] | None:
    """Which mask it must be about."""
    if question.given_mask is not None:
        return "GIVEN", question.given_mask.digest
    if question.refer_to is None:
        return None
    of = rounds[question.refer_to]
    return of.source, of.mask
