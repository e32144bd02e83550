"""One frame's dialogue: its rounds, begun with the masks of the frame that it follows, and what they found.

Knows templates, results and marks. Does not know order, or how a server is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mediround._rounds import Round
from mediround.dicom.instance import Frame
from mediround.dicom.volume.answers import Bits, FrameAnswer, FrameResult, Mark, Restart
from mediround.results import RoundResult
from mediround.templates import Question, Template

FALL = 0.2
"""By which a score has fallen since the frame before."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A question's mask on the frame that is followed."""

    place: int
    """Index of the question in the template."""
    answer: FrameAnswer


@dataclass(frozen=True, slots=True)
class Marks:
    """When a score is marked.

    Attributes:
        least: at most this is ``low``; None: no score is.
    """

    least: float | None = None

    def of(self, answer: FrameAnswer, before: FrameAnswer | None) -> Mark:
        if answer.mask is None:
            return "lost" if before is not None and before.mask is not None else ""
        if answer.score is None:
            return ""
        if self.least is not None and answer.score <= self.least:
            return "low"
        fell = before is not None and before.score is not None and answer.score <= before.score - FALL
        return "fell" if fell else ""


def marked(result: FrameResult, before: FrameResult | None, marks: Marks) -> FrameResult:
    """The result with marks; ``before``: the frame that it follows, or is next to."""
    earlier = before.answers if before and before.answers else (None,) * len(result.answers)
    pairs = zip(result.answers, earlier, strict=bool(result.answers))
    return replace(result, answers=tuple(replace(one, mark=marks.of(one, other)) for one, other in pairs))


def seeds_of(template: Template, before: FrameResult | None, given: Mapping[str, Bits]) -> list[Seed]:
    """Of the questions that refer to none and are not given: masks without a mark that a frame can begin with."""
    if before is None or before.error is not None:
        return []
    return [
        Seed(place, answer)
        for place, (answer, earlier) in enumerate(zip(before.answers, template.references, strict=True))
        if earlier is None and answer.name not in given and not answer.mark
        if answer.mask is not None and answer.mask.any()
    ]


def refusal(template: Template, before: FrameResult) -> Restart:
    """Why a frame cannot begin with another's masks."""
    if before.error is not None:
        return "failed"
    answers = zip(before.answers, template.references, strict=True)
    roots = [answer for answer, earlier in answers if earlier is None]
    return "mark" if any(root.mask is not None and root.mark for root in roots) else "no mask"


def rounds_of(
    template: Template, frame: Frame, seeds: Sequence[Seed], follows: int | None, given: Mapping[str, Bits]
) -> list[Round]:
    """The seeds as rounds that are given whole, then the questions, each referring to its seed or as the template
    says; those in ``given`` are rounds that are given, too. Crop and box of all are cut from this frame's pixels.
    """
    rounds = [
        Round(
            template.questions[seed.place].question,
            answer=seed.answer.words,
            seed=frame.from_stored(seed.answer.mask),
            origin="" if follows is None else f"frame {follows} of the stack",
        )
        for seed in seeds
        if seed.answer.mask is not None
    ]
    own = {seed.place: index for index, seed in enumerate(seeds)}
    for place, (question, each) in enumerate(zip(template.questions, template.rounds(len(seeds)), strict=True)):
        mask = given.get(question.name)
        if mask is not None:
            words = _words(question)
            rounds.append(Round(question.question, answer=words, seed=frame.from_stored(mask), origin="given"))
        else:
            rounds.append(replace(each, refer_to=own[place]) if place in own else each)
    return rounds


def answers_of(
    template: Template, frame: Frame, results: Sequence[RoundResult | None], given: Mapping[str, Bits]
) -> tuple[FrameAnswer, ...]:
    """Of the questions' results, without those of seeds; not marked yet."""
    return tuple(
        FrameAnswer(each.name, each.label, "given", _words(each), given[each.name])
        if each.name in given
        else _answer(each, frame, result)
        for each, result in zip(template.questions, results, strict=True)
    )


def _words(question: Question) -> str:
    """What an answer whose mask is given says."""
    return question.answer or f"It is the {question.label} [SEG]."


def _answer(question: Question, frame: Frame, result: RoundResult | None) -> FrameAnswer:
    if result is None:
        return FrameAnswer(question.name, question.label, "not_asked")
    return FrameAnswer(
        name=question.name,
        label=question.label,
        status="no_mask" if result.mask is None else "mask",
        words=result.answer,
        mask=None if result.mask is None else frame.to_stored(result.mask),
        score=result.score,
        corrected=result.corrected,
        model_digest=result.model_digest,
        engine_digest=result.engine_digest,
    )
