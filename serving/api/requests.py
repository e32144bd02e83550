"""Reader of requests for rounds: messages into questions and corrections of the domain.

Knows which messages make a question and a correction, and refuses what is not valid. Does not know
sessions' rounds: whether a referred round exists is for the orchestrator to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mediround.v1 import segmentation_pb2 as pb
from serving.api.description import ServerDescription
from serving.api.text import check_answer, check_question
from serving.domain import AnswerMode, Correction, CorrectionPolicy, Priority, Question
from serving.errors import InvalidInput, InvalidQuestion

_MODES = {
    pb.ANSWER_MODE_FORCED: AnswerMode.FORCED,
    pb.ANSWER_MODE_GRAMMAR: AnswerMode.GRAMMAR,
    pb.ANSWER_MODE_FREE: AnswerMode.FREE,
}
_POLICIES = {
    pb.CORRECTION_POLICY_ALWAYS: CorrectionPolicy.ALWAYS,
    pb.CORRECTION_POLICY_REFERENCED: CorrectionPolicy.REFERENCED,
    pb.CORRECTION_POLICY_OFF: CorrectionPolicy.OFF,
}
_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    pb.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    pb.PRIORITY_BATCH: Priority.BATCH,
}


@contextmanager
def paths_in_round() -> Iterator[None]:
    """Around the work on a request for one round: errors of its question name the field ``question``."""
    try:
        yield
    except InvalidQuestion as error:
        raise error.inside("question") from None


@contextmanager
def paths_in_dialogue() -> Iterator[None]:
    """Around the work on a request for a dialogue: errors of its questions name the field ``questions``."""
    try:
        yield
    except InvalidQuestion as error:
        position = "" if error.position is None else f"[{error.position}]"
        raise error.inside(f"questions{position}") from None


@dataclass(frozen=True, slots=True)
class RequestReader:
    """Reads requests against what the server serves."""

    description: ServerDescription

    def round(self, request: pb.AskRoundRequest) -> tuple[Question, Correction]:
        """Raises InvalidInput."""
        _check_request(request.session_id, request.mask_encoding)
        correction = self._correction(request.correction, default=CorrectionPolicy.ALWAYS)
        with paths_in_round():
            return self._question(request.question, 0, request.session_id), correction

    def dialogue(self, request: pb.SegmentDialogueRequest) -> tuple[list[Question], Correction]:
        """Raises InvalidInput."""
        _check_request(request.session_id, request.mask_encoding)
        limit = self.description.limits.max_rounds
        if not 1 <= len(request.questions) <= limit:
            raise InvalidInput("questions", f"must hold 1 to {limit} questions")
        correction = self._correction(request.correction, default=CorrectionPolicy.REFERENCED)
        questions = enumerate(request.questions)
        with paths_in_dialogue():
            return [self._question(question, i, request.session_id) for i, question in questions], correction

    def priority(self, priority: pb.Priority.ValueType, field: str = "priority") -> Priority:
        """Raises InvalidInput."""
        if priority not in _PRIORITIES:
            raise InvalidInput(field, "must be INTERACTIVE or BATCH")
        return _PRIORITIES[priority]

    def _question(self, question: pb.Question, position: int, session_id: str) -> Question:
        """Raises InvalidQuestion."""
        try:
            return self._checked(question, session_id)
        except InvalidInput as error:
            raise InvalidQuestion(position, error.field, error.description) from None

    def _checked(self, question: pb.Question, session_id: str) -> Question:
        limit = self.description.limits.max_question_bytes
        check_question(question.text, limit)
        mode = self._mode(question)
        if question.answer and mode is not AnswerMode.FORCED:
            raise InvalidInput("answer", "may be set only in answer mode FORCED")
        if question.answer:
            check_answer(question.answer, limit)
        refer_to = question.refer_to.round if question.HasField("refer_to") else None
        if question.refer_to.session_id not in {"", session_id}:
            raise InvalidInput("refer_to.session_id", "must be empty or this session's id")
        return Question(question.text, refer_to, mode, question.answer)

    def _mode(self, question: pb.Question) -> AnswerMode:
        if question.answer_mode == pb.ANSWER_MODE_UNSPECIFIED:
            free = self.description.manifest.answers.default_mode == "free" and not question.answer
            return AnswerMode.FREE if free else AnswerMode.FORCED
        if question.answer_mode not in _MODES:
            raise InvalidInput("answer_mode", "must be FORCED, GRAMMAR or FREE")
        return _MODES[question.answer_mode]

    def _correction(self, correction: pb.Correction, default: CorrectionPolicy) -> Correction:
        threshold = self.description.manifest.judge.threshold
        if correction.HasField("threshold"):
            threshold = correction.threshold
        if not math.isfinite(threshold) or not 0 <= threshold <= 1:
            raise InvalidInput("correction.threshold", "must be between 0 and 1")
        if correction.policy == pb.CORRECTION_POLICY_UNSPECIFIED:
            return Correction(default, threshold)
        if correction.policy not in _POLICIES:
            raise InvalidInput("correction.policy", "must be ALWAYS, REFERENCED or OFF")
        return Correction(_POLICIES[correction.policy], threshold)


def _check_request(session_id: str, encoding: pb.MaskEncoding.ValueType) -> None:
    if not session_id:
        raise InvalidInput("session_id", "must not be empty; open a session first")
    if encoding not in pb.MaskEncoding.values():
        raise InvalidInput("mask_encoding", "must be COCO_RLE, PACKED_BITS or PNG")
