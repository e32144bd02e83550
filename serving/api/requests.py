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
from serving.api.given_masks import MaskReader, check_digest, check_origin, given_mask
from serving.api.text import check_answer, check_question
from serving.domain import (
    AnswerMode,
    Correction,
    CorrectionPolicy,
    GivenMask,
    KnownRound,
    Mask,
    Priority,
    Question,
)
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
MOST_NEAR_ZERO = 1
"""A logit: beyond it is no rounding."""


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

    def round(self, request: pb.AskRoundRequest, masks: MaskReader | None) -> tuple[Question, Correction]:
        """``masks`` reads those that come with the question, where there are any. Raises InvalidInput."""
        _check_request(request.session_id, request.mask_encoding)
        correction = self._correction(request.correction, default=CorrectionPolicy.ALWAYS)
        with paths_in_round():
            return self._question(request.question, 0, request.session_id, masks), correction

    def check_dialogue(self, request: pb.SegmentDialogueRequest) -> None:
        """Before its questions are looked at, of which there may be millions. Raises InvalidInput."""
        _check_request(request.session_id, request.mask_encoding)
        limit = self.description.limits.max_rounds
        if not 1 <= len(request.questions) <= limit:
            raise InvalidInput("questions", f"must hold 1 to {limit} questions")

    def dialogue(
        self, request: pb.SegmentDialogueRequest, masks: MaskReader | None
    ) -> tuple[list[Question], Correction]:
        """As ``round``, of a request that was checked by ``check_dialogue``."""
        correction = self._correction(request.correction, default=CorrectionPolicy.REFERENCED)
        questions = enumerate(request.questions)
        with paths_in_dialogue():
            each = [self._question(question, i, request.session_id, masks) for i, question in questions]
            return each, correction

    def priority(self, priority: pb.Priority.ValueType, field: str = "priority") -> Priority:
        """Raises InvalidInput."""
        if priority not in _PRIORITIES:
            raise InvalidInput(field, "must be INTERACTIVE or BATCH")
        return _PRIORITIES[priority]

    def near_zero(self, request: pb.AskRoundRequest | pb.SegmentDialogueRequest) -> float | None:
        """Raises InvalidInput."""
        if not request.HasField("near_zero"):
            return None
        if not 0 < request.near_zero <= MOST_NEAR_ZERO:
            raise InvalidInput("near_zero", f"must be above 0 and at most {MOST_NEAR_ZERO}")
        return request.near_zero

    def _question(
        self, question: pb.Question, position: int, session_id: str, masks: MaskReader | None
    ) -> Question:
        """Raises InvalidQuestion."""
        try:
            return self._checked(question, session_id, masks)
        except InvalidInput as error:
            raise InvalidQuestion(position, error.field, error.description) from None

    def _checked(self, question: pb.Question, session_id: str, masks: MaskReader | None) -> Question:
        limit = self.description.limits.max_question_bytes
        check_question(question.text, limit)
        mode = self._mode(question)
        if question.answer and mode is not AnswerMode.FORCED:
            raise InvalidInput("answer", "may be set only in answer mode FORCED")
        if question.answer:
            check_answer(question.answer, limit)
        refer_to = question.refer_to.round if question.HasField("refer_to") else None
        return Question(
            question.text,
            refer_to,
            mode,
            question.answer,
            expected_round=_known(question.refer_to, session_id),
            given_mask=_given(question, masks),
            seed_mask=_seed(question, mode, masks),
            seed_origin=question.seed_origin,
        )

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


def _known(reference: pb.RoundReference, session_id: str) -> KnownRound:
    """What the caller takes the round that it refers to for."""
    if reference.session_id not in {"", session_id}:
        raise InvalidInput("refer_to.session_id", "must be empty or this session's id")
    if reference.mask_digest:
        check_digest(reference.mask_digest, "refer_to.mask_digest")
    return KnownRound(reference.round_id, reference.mask_digest)


def _given(question: pb.Question, masks: MaskReader | None) -> GivenMask | None:
    if not question.HasField("given_mask"):
        return None
    if question.HasField("refer_to"):
        raise InvalidInput("given_mask", "must be left out beside refer_to: a question is about one mask")
    try:
        return given_mask(question.given_mask, masks)
    except InvalidInput as error:
        raise error.inside("given_mask") from None


def _seed(question: pb.Question, mode: AnswerMode, masks: MaskReader | None) -> Mask | None:
    if question.seed_origin and not question.HasField("seed_mask"):
        raise InvalidInput("seed_origin", "must be left out where no seed_mask is given")
    if not question.HasField("seed_mask") or masks is None:
        return None
    check_origin(question.seed_origin, "seed_origin")
    if not question.answer:
        raise InvalidInput("answer", "must be given with seed_mask: the model is not asked")
    if mode is not AnswerMode.FORCED:
        raise InvalidInput("answer_mode", "must be FORCED with seed_mask")
    try:
        return masks.mask(question.seed_mask)
    except InvalidInput as error:
        raise error.inside("seed_mask") from None
