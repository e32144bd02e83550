"""Waves as values: which rounds share one, the prompt for the engines, and the rounds made of their replies.

Knows correction policies and what a round remembers. Pure: does not know engines, stores or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    SegFeature,
    Segmentation,
)
from serving.errors import EngineFault
from serving.history import changes
from serving.history.record import Session, SessionRecord
from serving.history.rounds import MaskSource, ReferredMask, Round, RoundResult, UsedReference
from serving.ports import Completion, DecodedMasks, Prompt
from serving.prompt import PromptTemplate, Turn
from serving.runtime.record import RuntimeRecord

NO_PASS = Completion((), (), None, 0, 0, RuntimeRecord(""))
"""Of a wave whose rounds are all seeds."""


@dataclass(frozen=True, slots=True)
class WaveItem:
    """A question of the wave with what it is asked with."""

    index: int
    """In its session."""
    round_id: str
    threshold: float
    """A score at most this is corrected; ``NO_CORRECTION`` where the policy does not apply."""
    question: Question
    turn: Turn
    referred: ReferredMask | None = None
    """The mask that it is about, once that is known."""
    reference: Reference | None = None
    """The same, as the language half sees it."""

    @property
    def seed(self) -> Mask | None:
        """The round's mask, where it is given and the model is not asked."""
        return self.question.seed_mask


def waves(questions: Sequence[Question], first_index: int) -> list[range]:
    """Group questions, numbered from ``first_index`` in their session, into language passes.

    Attention is causal, so a round's feature needs only what stands before it: every round whose own and
    earlier references are known can be read in one pass. A wave ends before the first round that refers to
    a mask which the same wave makes (a seed's is there before), and after a round whose words the model has yet
    to say.
    """
    groups: list[range] = []
    start = 0
    for position, question in enumerate(questions):
        made = None if question.refer_to is None else question.refer_to - first_index
        refers_into_wave = made is not None and made >= start and questions[made].seed_mask is None
        follows_free = position > start and questions[position - 1].mode is not AnswerMode.FORCED
        if position > start and (refers_into_wave or follows_free):
            groups.append(range(start, position))
            start = position
    return [*groups, range(start, len(questions))] if questions else []


def thresholds(first: int, questions: Sequence[Question], correction: Correction) -> list[float]:
    """The threshold of each question, numbered from ``first`` in its session, under a policy; none is a seed's."""
    match correction.policy:
        case CorrectionPolicy.ALWAYS:
            judged = set(range(first, first + len(questions)))
        case CorrectionPolicy.REFERENCED:
            judged = {question.refer_to for question in questions if question.refer_to is not None}
        case CorrectionPolicy.OFF:
            judged = set()
    return [
        correction.threshold if first + i in judged and question.seed_mask is None else NO_CORRECTION
        for i, question in enumerate(questions)
    ]


def correctable(items: Sequence[WaveItem], results: Sequence[RoundResult]) -> int:
    """How many masks the policy lets be corrected."""
    pairs = zip(items, results, strict=True)
    return sum(a.threshold != NO_CORRECTION and r.segmentation is not None for a, r in pairs)


def model_rounds(items: Sequence[WaveItem]) -> int:
    """Of how many rounds the model is asked: all but seeds."""
    return sum(item.seed is None for item in items)


def check_length(rounds: Sequence[Round], items: Sequence[WaveItem], form: PromptTemplate) -> None:
    """Raises InvalidQuestion when the items, free ones without their answers, do not fit the model's context."""
    _read(rounds, items, form)


def referred_mask(record: SessionRecord, earlier: Sequence[WaveItem], question: Question) -> ReferredMask | None:
    """The mask that a question is about: a round's, or a seed's that is ``earlier`` in the same wave.

    Raises:
        PreconditionFailed: the round referred to has no mask.
    """
    place = -1 if question.refer_to is None else question.refer_to - len(record.rounds)
    seed = earlier[place].seed if place >= 0 else None
    if seed is None:
        return changes.referred_mask(record, question)
    of = earlier[place]
    return ReferredMask(seed, MaskSource.ROUND, of.index, of.round_id, of.question.seed_origin)


def shown_before(record: SessionRecord, earlier: Sequence[WaveItem], referred: ReferredMask) -> Reference | None:
    """What the language half was shown of the same mask before, by a round or by an item of the same wave: a mask
    is cut out of the image once, and its crop held once. None: nothing yet.
    """
    shown = [(done.used and done.used.referred, done.reference) for done in record.rounds]
    shown += [(item.referred, item.reference) for item in earlier]
    same = (cut for of, cut in shown if of and cut and of.mask.digest == referred.mask.digest)
    cut = next(same, None)
    return cut and replace(cut, round=referred.round)


def prompt(session: Session, items: Sequence[WaveItem], form: PromptTemplate) -> Prompt:
    """The dialogue up to the reading position of the last question that is asked, or to where its answer begins.

    Raises:
        InvalidQuestion: the dialogue is longer than the model's context.
    """
    last = max(number for number, item in enumerate(items) if item.seed is None)
    items = items[: last + 1]
    token_ids, positions, max_new_tokens = _read(session.rounds, items, form)
    references = [done.reference for done in session.rounds] + [item.reference for item in items]
    return Prompt(
        dialogue=session.record.dialogue,
        tenant=session.caller,
        token_ids=tuple(token_ids),
        image=session.image.tower,
        references=tuple(reference for reference in references if reference is not None),
        feature_positions=tuple(positions),
        max_new_tokens=max_new_tokens,
        ensure_seg=items[-1].turn.ensure_seg,
    )


def features(items: Sequence[WaveItem], completion: Completion) -> list[SegFeature | None]:
    """The feature of each question; None where the model answered without ``[SEG]``, and for a seed.

    Raises:
        EngineFault: the engine returned another number of features than the prompt wanted, or one that is
            not finite.
    """
    forced = iter(completion.features)
    if len(completion.features) != sum(_read_forced(item) for item in items):
        raise EngineFault("the language engine returned another number of features than was asked for")
    per_item = [
        None if item.seed else next(forced) if item.turn.forced else completion.generated for item in items
    ]
    if not all(np.isfinite(feature.vector).all() for feature in per_item if feature):
        raise EngineFault("the language engine returned a feature that is not finite")
    return per_item


def segmentations(
    features: Sequence[SegFeature | None], decoded: DecodedMasks, masks: Sequence[Mask]
) -> list[Segmentation | None]:
    """Join each feature with its part of the decoded batch (K = number of features that there are).

    None where there is no feature.
    """
    parts = zip(masks, decoded.scores.tolist(), decoded.corrected.tolist(), strict=True)
    return [_segmentation(feature, *next(parts)) if feature else None for feature in features]


def of_features(features: Sequence[SegFeature | None], masks: Sequence[Mask | None]) -> list[Mask | None]:
    """What was drawn of the features that there are, each at its feature's place; None elsewhere."""
    each = iter(masks)
    return [next(each) if feature else None for feature in features]


def rounds(
    items: Sequence[WaveItem],
    completion: Completion,
    segmentations: Sequence[Segmentation | None],
    form: PromptTemplate,
    engine_digest: str,
) -> list[Round]:
    """What the session remembers of each question; ``engine_digest``: of what computed those that are no seeds."""
    made = [_round(item, completion, each, form) for item, each in zip(items, segmentations, strict=True)]
    return [each if each.seeded else replace(each, engine_digest=engine_digest) for each in made]


def _round(
    item: WaveItem, completion: Completion, segmentation: Segmentation | None, form: PromptTemplate
) -> Round:
    answer, closing = item.turn.answer, item.turn.closing
    if not item.turn.forced:
        answer, closing = form.close(completion.token_ids, segmented=segmentation is not None)
    if item.seed is not None:
        segmentation = Segmentation(item.seed, None, corrected=False, log_probability=None)
    referred, reference = item.referred, item.reference
    return Round(
        round_id=item.round_id,
        question=item.question.text,
        answer=answer,
        token_ids=(*item.turn.prompt, *closing),
        used=UsedReference.of(referred, reference) if referred is not None and reference is not None else None,
        reference=reference,
        segmentation=segmentation,
        seeded=item.seed is not None,
        origin=item.question.seed_origin,
    )


def vectors(features: Sequence[SegFeature | None]) -> F32:
    """The features that there are, as a batch (K, 256)."""
    return np.stack([feature.vector for feature in features if feature])


def _read(
    rounds: Sequence[Round], items: Sequence[WaveItem], form: PromptTemplate
) -> tuple[list[int], list[int], int]:
    """The dialogue's ids, where forced turns are read in them, and how many tokens may follow."""
    token_ids = [token for done in rounds for token in done.token_ids]
    positions = []
    for item in items:
        token_ids += item.turn.prompt
        if _read_forced(item):
            positions.append(len(token_ids) - 1)
        if item is not items[-1]:
            token_ids += item.turn.closing
    max_new_tokens = 0 if items[-1].turn.forced else form.manifest.answers.max_new_tokens
    form.check_length(token_ids, max_new_tokens, _shorter(len(rounds), len(items)))
    return token_ids, positions, max_new_tokens


def _read_forced(item: WaveItem) -> bool:
    """Whether its feature is read inside the prompt."""
    return item.turn.forced and item.seed is None


def _shorter(before: int, questions: int) -> str:
    if before:
        return "open a new session"
    return "shorten the question" if questions == 1 else "ask fewer or shorter questions"


def _segmentation(feature: SegFeature, mask: Mask, score: float, corrected: bool) -> Segmentation:
    return Segmentation(mask, None if np.isnan(score) else score, corrected, feature.log_probability)
