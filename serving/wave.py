"""Waves as values: which rounds share one, the prompt for the engines, and the rounds made of their replies.

Knows correction policies and what a round remembers. Pure: does not know engines, stores or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.domain import (
    F32,
    NO_CORRECTION,
    AnswerMode,
    Correction,
    CorrectionPolicy,
    Mask,
    Question,
    Reference,
    Round,
    RoundResult,
    SegFeature,
    Segmentation,
    Session,
)
from serving.errors import EngineFault
from serving.ports import Completion, DecodedMasks, ExpectedWork, Prompt
from serving.prompt import PromptTemplate, Turn


@dataclass(frozen=True, slots=True)
class WaveItem:
    """A question of the wave with what it is asked with."""

    index: int
    """In its session."""
    threshold: float
    """A score at most this is corrected; ``NO_CORRECTION`` where the policy does not apply."""
    refer_to: int | None
    turn: Turn
    reference: Reference | None = None
    """Of the round that it refers to, once that one's mask is known."""


@dataclass(frozen=True, slots=True)
class DialoguePlan:
    """How questions will be answered, before the first engine is asked."""

    waves: tuple[tuple[WaveItem, ...], ...]
    """Without references: those are cut out of masks when their wave's turn comes."""
    work: ExpectedWork


def waves(questions: Sequence[Question], first_index: int) -> list[range]:
    """Group questions, numbered from ``first_index`` in their session, into language passes.

    Attention is causal, so a round's feature needs only what stands before it: every round whose own and
    earlier references are known can be read in one pass. A wave ends before the first round that refers to
    a mask of the same wave, and after a round whose words the model has yet to say.
    """
    groups: list[range] = []
    start = 0
    for position, question in enumerate(questions):
        refers_into_wave = question.refer_to is not None and question.refer_to >= first_index + start
        follows_free = position > start and questions[position - 1].mode is not AnswerMode.FORCED
        if position > start and (refers_into_wave or follows_free):
            groups.append(range(start, position))
            start = position
    return [*groups, range(start, len(questions))] if questions else []


def thresholds(first: int, questions: Sequence[Question], correction: Correction) -> list[float]:
    """The threshold of each question, numbered from ``first`` in its session, under a policy."""
    match correction.policy:
        case CorrectionPolicy.ALWAYS:
            judged = set(range(first, first + len(questions)))
        case CorrectionPolicy.REFERENCED:
            judged = {question.refer_to for question in questions if question.refer_to is not None}
        case CorrectionPolicy.OFF:
            judged = set()
    return [correction.threshold if first + i in judged else NO_CORRECTION for i in range(len(questions))]


def correctable(items: Sequence[WaveItem], results: Sequence[RoundResult]) -> int:
    """How many masks the policy lets be corrected."""
    pairs = zip(items, results, strict=True)
    return sum(a.threshold != NO_CORRECTION and r.segmentation is not None for a, r in pairs)


def check_length(session: Session, turns: Sequence[Turn], form: PromptTemplate) -> None:
    """Raises InvalidQuestion when the turns, free ones without their answers, do not fit the model's context."""
    _read(session, turns, form)


def prompt(session: Session, items: Sequence[WaveItem], form: PromptTemplate) -> Prompt:
    """The dialogue up to the last question's reading position, or to where its answer begins.

    Raises:
        InvalidQuestion: the dialogue is longer than the model's context.
    """
    token_ids, positions, max_new_tokens = _read(session, [item.turn for item in items], form)
    references = [done.reference for done in session.rounds] + [item.reference for item in items]
    return Prompt(
        dialogue=session.session_id,
        tenant=session.caller,
        token_ids=tuple(token_ids),
        image=session.image.tower,
        references=tuple(reference for reference in references if reference is not None),
        feature_positions=tuple(positions),
        max_new_tokens=max_new_tokens,
        ensure_seg=items[-1].turn.ensure_seg,
    )


def features(items: Sequence[WaveItem], completion: Completion) -> list[SegFeature | None]:
    """The feature of each question; None where the model answered without ``[SEG]``.

    Raises:
        EngineFault: the engine returned another number of features than the prompt wanted, or one that is
            not finite.
    """
    forced = iter(completion.features)
    if len(completion.features) != sum(item.turn.forced for item in items):
        raise EngineFault("the language engine returned another number of features than was asked for")
    per_item = [next(forced) if item.turn.forced else completion.generated for item in items]
    if not all(np.isfinite(feature.vector).all() for feature in per_item if feature):
        raise EngineFault("the language engine returned a feature that is not finite")
    return per_item


def segmentations(
    features: Sequence[SegFeature | None], decoded: DecodedMasks, masks: Sequence[Mask]
) -> list[Segmentation | None]:
    """Join each feature with its part of the decoded batch (K = number of features that there are)."""
    parts = zip(masks, decoded.scores.tolist(), decoded.corrected.tolist(), strict=True)
    return [_segmentation(feature, *next(parts)) if feature else None for feature in features]


def rounds(
    items: Sequence[WaveItem],
    completion: Completion,
    segmentations: Sequence[Segmentation | None],
    form: PromptTemplate,
) -> tuple[list[Round], list[str]]:
    """What the session remembers of each question, and the answer's words."""
    remembered, answers = [], []
    for item, segmentation in zip(items, segmentations, strict=True):
        answer, closing = item.turn.answer, item.turn.closing
        if not item.turn.forced:
            answer, closing = form.close(completion.token_ids, segmented=segmentation is not None)
        mask = segmentation.mask if segmentation else None
        remembered.append(Round((*item.turn.prompt, *closing), item.reference, mask))
        answers.append(answer)
    return remembered, answers


def vectors(features: Sequence[SegFeature | None]) -> F32:
    """The features that there are, as a batch (K, 256)."""
    return np.stack([feature.vector for feature in features if feature])


def _read(session: Session, turns: Sequence[Turn], form: PromptTemplate) -> tuple[list[int], list[int], int]:
    """The dialogue's ids, where forced turns are read in them, and how many tokens may follow."""
    token_ids = [token for done in session.rounds for token in done.token_ids]
    positions = []
    for turn in turns:
        token_ids += turn.prompt
        if turn.forced:
            positions.append(len(token_ids) - 1)
        if turn is not turns[-1]:
            token_ids += turn.closing
    max_new_tokens = 0 if turns[-1].forced else form.manifest.answers.max_new_tokens
    form.check_length(token_ids, max_new_tokens, _shorter(session, turns))
    return token_ids, positions, max_new_tokens


def _shorter(session: Session, turns: Sequence[Turn]) -> str:
    if session.rounds:
        return "open a new session"
    return "shorten the question" if len(turns) == 1 else "ask fewer or shorter questions"


def _segmentation(feature: SegFeature, mask: Mask, score: float, corrected: bool) -> Segmentation:
    return Segmentation(mask, None if np.isnan(score) else score, corrected, feature.log_probability)
