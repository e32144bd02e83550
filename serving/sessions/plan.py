"""How a request's questions will be answered: checked, as tokens, in waves, before the first engine is asked.

Knows what may be asked of a session, and names its new rounds. Does not know engines, stores or time.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serving import wave
from serving.domain import Correction, CorrectionPolicy, Priority, Question, Tell, unheard
from serving.errors import InvalidInput, InvalidQuestion
from serving.history import changes
from serving.history.record import RequestKey, SessionRecord
from serving.ports import ExpectedWork
from serving.prompt import PromptTemplate
from serving.wave import WaveItem

_ID_BYTES = 12
"""Of a round: no other of its caller's has the same."""


@dataclass(frozen=True, slots=True)
class DialogueRequest:
    """Questions known in advance, and how they are to be answered."""

    session_id: str
    caller: str
    questions: Sequence[Question]
    correction: Correction
    priority: Priority = Priority.INTERACTIVE
    key: RequestKey | None = None
    """What it is known by when it comes again."""
    tell: Tell = unheard
    """Hears where it stands."""
    near_zero: float | None = None
    """Results say which logits lie so near to 0."""

    @property
    def of_person(self) -> bool:
        """Whether it is one question of a person, who looks at the mask and mostly asks about it next."""
        return len(self.questions) == 1 and self.priority is Priority.INTERACTIVE


@dataclass(frozen=True, slots=True)
class DialoguePlan:
    """What will be asked of the engines."""

    waves: tuple[tuple[WaveItem, ...], ...]
    """Without references: those are cut out of masks when their wave's turn comes."""
    first: int
    """Number of the first of them: those before were answered when the request came before."""
    passes: int

    @property
    def last(self) -> int:
        """How many waves the request takes in all."""
        return self.first + len(self.waves)

    def work(self, *, known: bool) -> ExpectedWork:
        """``known``: the image's embedding is there."""
        masks = sum(map(wave.model_rounds, self.waves))
        return ExpectedWork(encodes=not known, passes=self.passes, masks=masks)


def check_live(request: DialogueRequest) -> None:
    """Raises InvalidInput for policy REFERENCED of a live round: no round is known to refer to it."""
    if request.correction.policy is CorrectionPolicy.REFERENCED:
        raise InvalidInput(
            "correction.policy",
            "must be ALWAYS or OFF for a single round: REFERENCED needs a dialogue known in advance",
        )


def plan(
    record: SessionRecord, request: DialogueRequest, done: int, form: PromptTemplate, max_rounds: int
) -> DialoguePlan:
    """Of all questions but the first ``done``, whose rounds are the session's last.

    Raises:
        InvalidQuestion: a question that cannot be asked, too many of them or of tokens.
        PreconditionFailed: a reference to what is no longer so, or to a mask that the session does not hold.
    """
    begun = replace(record, rounds=record.rounds[: len(record.rounds) - done])
    first = len(begun.rounds)
    _check_room(first, len(request.questions), max_rounds)
    for question in request.questions:
        changes.check_known(begun, question)
    _check_references(first, request.questions)
    items = _items(first, request.questions, request.correction, form)
    wave.check_length(begun.rounds, items, form)
    # Last: nobody must send a mask for a question that cannot be asked.
    questions = changes.with_masks(begun, request.questions)
    items = [replace(item, question=each) for item, each in zip(items, questions, strict=True)]
    groups = [tuple(items[i] for i in group) for group in wave.waves(questions, first)]
    left = tuple(group for group in groups if group[-1].index >= first + done)
    return DialoguePlan(left, len(groups) - len(left), sum(wave.model_rounds(group) > 0 for group in left))


def _check_room(first: int, count: int, max_rounds: int) -> None:
    if first + count > max_rounds:
        words = f"a session may hold at most {max_rounds} rounds, this one has {first}; open a new one"
        raise InvalidQuestion(None, "", words)


def _check_references(first: int, questions: Sequence[Question]) -> None:
    for position, question in enumerate(questions):
        if question.refer_to is not None and not 0 <= question.refer_to < first + position:
            words = f"must be the index of a round before round {first + position}; it is {question.refer_to}"
            if first + position == 0:
                words = "must be absent: the session has no earlier round to refer to"
            raise InvalidQuestion(position, "refer_to", words)


def _items(
    first: int, questions: Sequence[Question], correction: Correction, form: PromptTemplate
) -> list[WaveItem]:
    """Every question with its tokens and its round's id."""
    items = []
    thresholds = wave.thresholds(first, questions, correction)
    for position, (question, threshold) in enumerate(zip(questions, thresholds, strict=True)):
        try:
            turn = form.turn(question, first=first + position == 0)
        except InvalidInput as error:
            raise InvalidQuestion(position, error.field, error.description) from None
        round_id = secrets.token_urlsafe(_ID_BYTES)
        items.append(WaveItem(first + position, round_id, threshold, question, turn))
    return items
