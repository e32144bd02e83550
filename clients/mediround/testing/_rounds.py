"""How a script's replies become rounds: wave by wave, as the real service reads them.

Knows sessions, scripts and the messages of results. Does not know calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
from google.protobuf.duration_pb2 import Duration

from mediround import masks
from mediround.errors import FailedPrecondition, MediRoundError, ServerFault
from mediround.testing._rules import SEG, check_references, mode_of, priority_of
from mediround.testing._sessions import ScriptedSession, ScriptedSessions
from mediround.testing.script import Answer, AskedQuestion, Bits, Reply, Script
from mediround.v1 import segmentation_pb2 as pb

_NOTHING_SEEN = "That structure is not visible in this image."
_FEW_PIXELS = 9
"""A mask of at most so many pixels cannot be a reference: the whole image stands in for it."""


@dataclass(frozen=True, slots=True)
class RoundsRequest:
    """What one call asks of a session."""

    session_id: str
    questions: list[pb.Question]
    judged: frozenset[int] | None
    """Indices of rounds that may be corrected; None: each."""
    threshold: float
    encoding: pb.MaskEncoding.ValueType
    priority: pb.Priority.ValueType


@dataclass(frozen=True, slots=True)
class _Wave:
    """Questions that are read together, and what is known when they are."""

    request: RoundsRequest
    questions: list[tuple[int, pb.Question]]
    """With the indices that their rounds have in the session."""
    number: int
    queue: float
    """Seconds."""
    began: float
    hit: bool


class ScriptedRounds:
    """Answers questions. One event loop's."""

    def __init__(self, script: Script, sessions: ScriptedSessions) -> None:
        self.asked: list[AskedQuestion] = []
        self._script, self._sessions = script, sessions
        self._times: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    async def answers(self, request: RoundsRequest) -> AsyncGenerator[pb.RoundResult]:
        """Each round's result, in order. Raises MediRoundError: a rule's, or the script's."""
        arrived = monotonic()
        async with self._sessions.exclusive(request.session_id) as session:
            first = len(session.masks)
            check_references(request.questions, first, self._script.description.limits.max_rounds)
            queue = monotonic() - arrived
            for number, group in enumerate(waves(request.questions, first, self._script)):
                questions = [(first + i, request.questions[i]) for i in group]
                hit = session.image in self._seen
                wave = _Wave(request, questions, number, 0.0 if number else queue, monotonic(), hit)
                for result in await self._read(session, wave):
                    yield result

    async def _read(self, session: ScriptedSession, wave: _Wave) -> list[pb.RoundResult]:
        references = [_reference(session, question) for _, question in wave.questions]
        asked = [self._asked(session, *question, wave.request) for question in wave.questions]
        self.asked += asked
        answers = [self._answer(question) for question in asked]
        await asyncio.sleep(max(answer.delay for answer in answers))
        drawn = [_mask(answer, question) for answer, question in zip(answers, asked, strict=True)]
        self._sessions.check(session.session_id)  # it may have been closed meanwhile
        self._seen.add(session.image)
        results = []
        for question, answer, mask, reference in zip(asked, answers, drawn, references, strict=True):
            session.masks.append(mask)
            results.append(self._result(session, question, answer, mask, wave))
            if reference:
                results[-1].reference.CopyFrom(reference)
        return results

    def _asked(
        self, session: ScriptedSession, index: int, question: pb.Question, request: RoundsRequest
    ) -> AskedQuestion:
        height, width = session.size
        return AskedQuestion(
            session_id=session.session_id,
            index=index,
            text=question.text,
            refer_to=question.refer_to.round if question.HasField("refer_to") else None,
            mode=mode_of(question, "question", self._script.description),
            answer=question.answer,
            priority=priority_of(request.priority),
            height=height,
            width=width,
        )

    def _answer(self, question: AskedQuestion) -> Answer:
        reply = self._reply(question)
        if isinstance(reply, MediRoundError):
            raise reply.with_traceback(None)  # the same error may be raised many times
        return reply

    def _reply(self, question: AskedQuestion) -> Reply:
        answers = self._script.answers
        if not isinstance(answers, Mapping):
            return answers(question)
        replies = answers.get(question.text, self._script.otherwise)
        if isinstance(replies, Answer | MediRoundError):
            return replies
        turn = self._times[question.text]
        self._times[question.text] += 1
        return replies[min(turn, len(replies) - 1)]

    def _result(
        self, session: ScriptedSession, question: AskedQuestion, answer: Answer, mask: Bits | None, wave: _Wave
    ) -> pb.RoundResult:
        served, request = self._script.description, wave.request
        words = _words(question, answer, served.answer_template, segmented=mask is not None)
        before, session.words = session.words, session.words + len(f"{question.text} {words}".split())
        seconds = monotonic() - wave.began
        spent = pb.Timings(
            queue=_duration(wave.queue), language=_duration(seconds), total=_duration(wave.queue + seconds)
        )
        cache = pb.CacheUse(
            embedding_hit=wave.hit, cached_tokens=before, prompt_tokens=session.words, wave=wave.number
        )
        result = pb.RoundResult(
            round=question.index,
            answer=words,
            timings=spent,
            cache=cache,
            model_digest=served.model_digest,
            engine_digest="".join(record.digest for record in served.engine_records[:1]),
        )
        if mask is None:
            return result
        result.mask.CopyFrom(_mask_message(mask, request.encoding))
        result.seg_probability = answer.seg_probability
        if served.has_judge:
            judged = request.judged is None or question.index in request.judged
            result.score = answer.score
            result.corrected = judged and answer.score <= request.threshold
        return result


def waves(questions: Sequence[pb.Question], first: int, script: Script) -> list[range]:
    """Questions, numbered from ``first`` in their session, that are read together: a wave ends before a question
    about one of its own masks, and after one whose words the model has yet to say.
    """
    groups, start = [], 0
    for position, question in enumerate(questions):
        refers_into_wave = question.HasField("refer_to") and question.refer_to.round >= first + start
        follows_free = (
            position > start and mode_of(questions[position - 1], "question", script.description) != "forced"
        )
        if position > start and (refers_into_wave or follows_free):
            groups.append(range(start, position))
            start = position
    return [*groups, range(start, len(questions))]


def _mask(answer: Answer, question: AskedQuestion) -> Bits | None:
    """The mask, of the image's size. Raises ServerFault when the script's is not."""
    size = question.height, question.width
    if answer.mask is None:
        return None if question.mode == "free" else np.zeros(size, np.bool_)
    mask = answer.mask(*size) if callable(answer.mask) else answer.mask
    if mask.shape != size or mask.dtype != np.bool_:
        raise ServerFault(f"the script's mask is {mask.dtype} {mask.shape}; the image's size is {size}")
    return mask


def _words(question: AskedQuestion, answer: Answer, template: str, *, segmented: bool) -> str:
    if question.mode == "forced":
        return question.answer or template
    if not segmented:
        return answer.words or _NOTHING_SEEN
    words = answer.words or template
    return words if SEG in words else f"{words} {SEG}"


def _reference(session: ScriptedSession, question: pb.Question) -> pb.ReferenceUsed | None:
    """What a model would be shown of the mask referred to. Raises FailedPrecondition when there is none."""
    if not question.HasField("refer_to"):
        return None
    mask = session.masks[question.refer_to.round]
    if mask is None:
        raise FailedPrecondition(f"round {question.refer_to.round} has no mask to refer to")
    whole = np.count_nonzero(mask) <= _FEW_PIXELS
    box = _box(np.ones(session.size, np.bool_) if whole else mask)
    return pb.ReferenceUsed(round=question.refer_to.round, crop=box, box=box, whole_image=bool(whole))


def _mask_message(mask: Bits, encoding: pb.MaskEncoding.ValueType) -> pb.Mask:
    encoding = encoding or pb.MASK_ENCODING_COCO_RLE
    data = masks.encode(mask, encoding)
    height, width = mask.shape
    area = int(np.count_nonzero(mask))
    return pb.Mask(height=height, width=width, encoding=encoding, data=data, area=area, box=_box(mask))


def _box(mask: Bits) -> pb.PixelBox | None:
    """Around the pixels set; None when none is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return pb.PixelBox(x_min=int(columns[0]), y_min=int(rows[0]), x_max=int(columns[-1]), y_max=int(rows[-1]))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
