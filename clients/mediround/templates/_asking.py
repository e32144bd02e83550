"""A dialogue whose rounds may find nothing, asked in a session.

Knows which rounds can be asked together, and which not at all because what they are about has no mask. Does not
know images or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypedDict

from mediround._rounds import DialogueCorrection, LiveCorrection, Priority, Round
from mediround.aio_session import AsyncSession
from mediround.errors import InvalidArgument
from mediround.results import RoundResult
from mediround.session import Session
from mediround.templates._template import Template

Answers = list[RoundResult | None]
"""Of each round; None: it was not asked, because the round that it refers to got no mask."""


def ask(
    session: Session,
    dialogue: Template | Sequence[Round],
    *,
    first: int = 0,
    correction: DialogueCorrection = "referenced",
    threshold: float | None = None,
    priority: Priority = "interactive",
    near_zero: float | None = None,
    timeout: float | None = None,
    retries: int | None = None,
) -> Answers:
    """Ask all of a template's questions; the results in its order.

    Where each answer is given they are asked together, in as few passes as the server can. Else one after the
    other: whether a question can be asked depends on whether the one that it refers to got a mask.

    Args:
        dialogue: a template; or rounds of your own, which refer to one another by their zero-based index.
        first: rounds that the session has already.
        correction: which masks the judge may have corrected; as ``client.segment``'s.
        threshold: a score at most this is corrected; None is the model's.
        priority: as ``session.ask``'s; so is ``near_zero``.
        timeout: seconds of each call; None is the client's. ``retries`` is as ``session.ask``'s.

    Returns:
        The result of each question. None: what it refers to got no mask, and it was not asked.
    """
    plan = _Plan.of(dialogue, correction, first)
    calls = _Calls(timeout=timeout, retries=retries)
    how = _How(threshold=threshold, priority=priority, near_zero=near_zero, **calls)
    if plan.together:
        return list(session.segment(plan.shifted, correction=correction, **how))
    for step in plan.steps():
        if step.seed is not None:
            result = session.seed(
                step.question, step.answer or "", step.seed, refer_to=step.refer_to, origin=step.origin, **calls
            )
        else:
            result = session.ask(
                step.question,
                refer_to=step.refer_to,
                origin=step.origin,
                mode=step.mode,
                answer=step.answer,
                correction=plan.policy,
                **how,
            )
        plan.answers.append(result)
    return plan.answers


async def ask_async(
    session: AsyncSession,
    dialogue: Template | Sequence[Round],
    *,
    first: int = 0,
    correction: DialogueCorrection = "referenced",
    threshold: float | None = None,
    priority: Priority = "interactive",
    near_zero: float | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not
    retries: int | None = None,
) -> Answers:
    """The same as ``ask``, awaited."""
    plan = _Plan.of(dialogue, correction, first)
    calls = _Calls(timeout=timeout, retries=retries)
    how = _How(threshold=threshold, priority=priority, near_zero=near_zero, **calls)
    if plan.together:
        results = session.segment(plan.shifted, correction=correction, **how)
        async with aclosing(results):
            return [result async for result in results]
    for step in plan.steps():
        if step.seed is not None:
            result = await session.seed(
                step.question, step.answer or "", step.seed, refer_to=step.refer_to, origin=step.origin, **calls
            )
        else:
            result = await session.ask(
                step.question,
                refer_to=step.refer_to,
                origin=step.origin,
                mode=step.mode,
                answer=step.answer,
                correction=plan.policy,
                **how,
            )
        plan.answers.append(result)
    return plan.answers


class _Calls(TypedDict):
    """Of every call."""

    timeout: float | None
    retries: int | None


class _How(_Calls):
    """Of every call that the model answers, but what is asked."""

    threshold: float | None
    priority: Priority
    near_zero: float | None


@dataclass(slots=True)
class _Plan:
    """What is asked, and what was answered so far."""

    rounds: Sequence[Round]
    correction: DialogueCorrection
    first: int
    answers: Answers = field(default_factory=list)

    @classmethod
    def of(cls, dialogue: Template | Sequence[Round], correction: DialogueCorrection, first: int) -> _Plan:
        rounds = dialogue.rounds() if isinstance(dialogue, Template) else dialogue
        for index, each in enumerate(rounds):
            if isinstance(each.refer_to, int) and not 0 <= each.refer_to < index:
                raise InvalidArgument(
                    f"rounds[{index}].refer_to: must be the index of an earlier round of the list"
                )
        return cls(rounds, correction, first)

    @property
    def together(self) -> bool:
        """Whether each round is certain to have a mask that later ones may refer to."""
        return all(each.answer is not None for each in self.rounds)

    @property
    def shifted(self) -> list[Round]:
        """With references as the session counts."""
        return [replace(each, refer_to=self.first + each.refer_to) if isinstance(each.refer_to, int) else each
                for each in self.rounds]  # fmt: skip

    @property
    def policy(self) -> LiveCorrection:
        """Of the round that comes next."""
        if self.correction == "referenced":
            referred = {each.refer_to for each in self.rounds if isinstance(each.refer_to, int)}
            return "always" if len(self.answers) in referred else "off"
        return self.correction

    def steps(self) -> Iterator[Round]:
        """The rounds to ask, each once the one before it is answered."""
        for each in self.rounds:
            if not isinstance(each.refer_to, int):
                yield each
                continue
            earlier = self.answers[each.refer_to]
            if earlier is None or earlier.mask is None:
                self.answers.append(None)
            else:
                yield replace(each, refer_to=earlier)
