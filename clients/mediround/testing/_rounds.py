"""How a script's replies become rounds: wave by wave, as the real service reads them.

Knows sessions, scripts and the messages of results. Does not know calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from google.protobuf.duration_pb2 import Duration

from mediround import masks
from mediround.errors import MediRoundError, MovedOn
from mediround.testing._given import because, check_known, masks_of, named_mask
from mediround.testing._past import ScriptedRound, box, mask_message, new_round_id
from mediround.testing._replies import mask_of, near_zero_of, words_of
from mediround.testing._rules import check_references, check_room, mode_of, priority_of
from mediround.testing._sessions import Remembered, ScriptedSession, ScriptedSessions
from mediround.testing.script import Answer, AnswerLost, AskedQuestion, Bits, Reply, Script
from mediround.v1 import segmentation_pb2 as pb

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
    near_zero: float | None
    key: bytes
    """Equal for the same request when it comes again."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One question, with what came with it."""

    index: int
    """That its round has in the session."""
    message: pb.Question
    given: Bits | None
    seed: Bits | None
    round_id: str = field(default_factory=new_round_id)


@dataclass(frozen=True, slots=True)
class _Wave:
    """Questions that are read together, and what is known when they are."""

    request: RoundsRequest
    questions: list[_Question]
    number: int
    waves: int
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

    async def answers(self, request: RoundsRequest) -> AsyncGenerator[pb.RoundResult | pb.Progress]:
        """Each round's result, in order, and where the request stands. Raises MediRoundError: a rule's, or the
        script's.
        """
        arrived = monotonic()
        async with self._sessions.exclusive(request.session_id, request.key) as session:
            before = session.repetition(request.key)
            for result in before.results if before else ():
                yield session.told_again(result)
            done = len(before.results) if before else 0
            if done == len(request.questions):
                return
            self._check_unmoved(session, before)
            session.check_image()
            first = len(session.rounds) - done
            questions = self._questions(session, request.questions, first)
            groups = waves(request.questions, first, self._script)
            for number, group in enumerate(groups):
                if group[-1] < done:
                    continue
                hit, queue = session.image in self._seen, monotonic() - arrived
                asked = [questions[i] for i in group]
                wave = _Wave(request, asked, number, len(groups), 0.0 if number else queue, monotonic(), hit)
                for stage in (pb.PROGRESS_STAGE_PREPARE, pb.PROGRESS_STAGE_LANGUAGE, pb.PROGRESS_STAGE_DECODE):
                    yield pb.Progress(stage=stage, wave=number, waves=len(groups))
                for result in await self._read(session, wave):
                    yield result

    @staticmethod
    def _check_unmoved(session: ScriptedSession, before: Remembered | None) -> None:
        """Raises MovedOn where what was answered of a request is no longer the session's end."""
        told = [each.round_id for each in before.results] if before else []
        if told and [each.round_id for each in session.rounds[-len(told) :]] != told:
            words = "rounds of this request were answered, and the session has changed since: the others must be"
            raise MovedOn(f"{len(told)} {words} asked anew")

    def _questions(self, session: ScriptedSession, messages: Sequence[pb.Question], first: int) -> list[_Question]:
        """With the masks that came with them. Raises InvalidArgument, FailedPrecondition."""
        limits, size = self._script.description.limits, session.size
        came = [masks_of(message, f"questions[{i}]", size, limits) for i, message in enumerate(messages)]
        check_room(messages, first, limits.max_rounds)
        for message in messages:
            check_known(session.rounds[:first], message)
        check_references(messages, first)
        questions, held = [], session.held
        for position, (message, (given, seed)) in enumerate(zip(messages, came, strict=True)):
            if message.given_mask.HasField("mask_digest"):
                given = named_mask(message.given_mask.mask_digest, held)  # noqa: PLW2901  # the same, found
            held += [each for each in (given, seed) if each is not None]
            questions.append(_Question(first + position, message, given, seed))
        return questions

    async def _read(self, session: ScriptedSession, wave: _Wave) -> list[pb.RoundResult]:
        used = [_used(session, wave, question) for question in wave.questions]
        asked = [self._asked(session, question, wave.request) for question in wave.questions]
        self.asked += [each for each, of in zip(asked, wave.questions, strict=True) if of.seed is None]
        seeds = [question.seed for question in wave.questions]
        answers = [
            self._answer(each) if seed is None else Answer(seed) for each, seed in zip(asked, seeds, strict=True)
        ]
        await asyncio.sleep(max(answer.delay for answer in answers))
        drawn = [mask_of(answer, question) for answer, question in zip(answers, asked, strict=True)]
        self._sessions.find(session.session_id)  # it may have been closed meanwhile
        self._seen.add(session.image)
        results = []
        for question, each, answer, mask, referred in zip(
            wave.questions, asked, answers, drawn, used, strict=True
        ):
            made = ScriptedRound(each.text, "", mask, None if referred is None else referred[0])
            made.seeded, made.round_id = question.seed is not None, question.round_id
            made.seed_origin = question.message.seed_origin
            result = self._result(session, each, answer, made, wave)
            if referred is not None:
                result.reference.CopyFrom(referred[1])
            made.told = result
            session.rounds.append(made)
            results.append(result)
        session.remember(wave.request.key).results += results
        if any(answer.lost for answer in answers):
            raise AnswerLost
        return results

    def _asked(self, session: ScriptedSession, question: _Question, request: RoundsRequest) -> AskedQuestion:
        height, width = session.size
        message = question.message
        return AskedQuestion(
            session_id=session.session_id,
            index=question.index,
            text=message.text,
            refer_to=message.refer_to.round if message.HasField("refer_to") else None,
            mode=mode_of(message, "question", self._script.description),
            answer=message.answer,
            priority=priority_of(request.priority),
            height=height,
            width=width,
            given_mask=question.given,
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
        self, session: ScriptedSession, question: AskedQuestion, answer: Answer, made: ScriptedRound, wave: _Wave
    ) -> pb.RoundResult:
        served, request, mask = self._script.description, wave.request, made.original
        made.answer = words_of(question, answer, served.answer_template, segmented=mask is not None)
        before = sum(each.words for each in session.rounds)
        seconds = monotonic() - wave.began
        spent = pb.Timings(
            queue=_duration(wave.queue), language=_duration(seconds), total=_duration(wave.queue + seconds)
        )
        cache = pb.CacheUse(
            embedding_hit=wave.hit, cached_tokens=before, prompt_tokens=before + made.words, wave=wave.number
        )
        result = pb.RoundResult(
            round=question.index,
            answer=made.answer,
            timings=spent,
            cache=cache,
            model_digest=served.model_digest,
            engine_digest="" if made.seeded else "".join(each.digest for each in served.engine_records[:1]),
            round_id=made.round_id,
            seeded=made.seeded,
            expires_at=self._sessions.ends(),
        )
        if mask is None:
            return result
        result.mask.CopyFrom(mask_message(mask, request.encoding))
        result.mask_digest = masks.digest(mask)
        if made.seeded:
            return result
        result.seg_probability = answer.seg_probability
        if served.has_judge:
            judged = request.judged is None or question.index in request.judged
            result.score = answer.score
            result.corrected = judged and answer.score <= request.threshold
        if request.near_zero is not None:
            near_zero = near_zero_of(answer, session.size)
            result.near_zero.CopyFrom(mask_message(near_zero, request.encoding))
        return result


def waves(questions: Sequence[pb.Question], first: int, script: Script) -> list[range]:
    """Questions, numbered from ``first`` in their session, that are read together: a wave ends before a question
    about one of its own masks, and after one whose words the model has yet to say.
    """
    groups, start = [], 0
    for position, question in enumerate(questions):
        refers_into_wave = question.HasField("refer_to") and question.refer_to.round >= first + start
        if refers_into_wave and question.refer_to.round < first + position:  # a seed's mask is there already
            refers_into_wave = not questions[question.refer_to.round - first].HasField("seed_mask")
        follows_free = (
            position > start and mode_of(questions[position - 1], "question", script.description) != "forced"
        )
        if position > start and (refers_into_wave or follows_free):
            groups.append(range(start, position))
            start = position
    return [*groups, range(start, len(questions))]


def _used(session: ScriptedSession, wave: _Wave, question: _Question) -> tuple[Bits, pb.ReferenceUsed] | None:
    """The mask that a question is about, and what a model would be shown of it. Raises FailedPrecondition when
    there is none.
    """
    message, used = question.message, pb.ReferenceUsed()
    if question.given is not None:
        mask = question.given
        used.source, used.origin = pb.REFERENCE_SOURCE_GIVEN, message.given_mask.origin
    elif message.HasField("refer_to"):
        index = message.refer_to.round
        seeds = {each.index: each for each in wave.questions}
        of = session.rounds[index] if index < len(session.rounds) else None
        found = seeds[index].seed if of is None else of.mask
        if found is None:
            raise because("NO_MASK", f"round {index} has no mask to refer to")
        mask, used.round, used.source = found, index, pb.REFERENCE_SOURCE_ROUND
        used.round_id = seeds[index].round_id if of is None else of.round_id
        used.origin = seeds[index].message.seed_origin if of is None else of.seed_origin
        if of is not None and of.amended is not None:
            used.source, used.origin = pb.REFERENCE_SOURCE_AMENDED, of.origin
    else:
        return None
    used.whole_image = int(np.count_nonzero(mask)) <= _FEW_PIXELS
    shown = box(np.ones(session.size, np.bool_) if used.whole_image else mask)
    used.crop.CopyFrom(shown or pb.PixelBox())
    used.box.CopyFrom(used.crop)
    used.mask_digest = masks.digest(mask)
    return mask, used


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
