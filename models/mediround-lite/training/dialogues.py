"""Dialogues over one view: which rounds are asked, and what they refer to.

Knows how rounds are drawn, and when a question is ambiguous without its reference. Does not know words'
tokens or networks. Rows that can be answered from the text alone teach a model to ignore its references,
so such rounds are mostly rejected when training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from training import questions
from training.questions import NEEDS_REFERENCE, NEEDS_STRUCTURE, Asked, Phrasing, Relation, related
from training.targets import PAIRED, PAIRED_COUNT, index

_WEIGHTS = {
    Relation.NAME: 0.24,
    Relation.MIRROR: 0.20,
    Relation.SAME_SIDE: 0.19,
    Relation.OTHER_SIDE: 0.19,
    Relation.HEMISPHERE: 0.09,
    Relation.LOBE: 0.04,
    Relation.BRAIN: 0.05,
}
_TRIES = 60
_POINTLESS = 0.1
"""Share of named and whole-brain questions that carry a reference they do not need."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How dialogues are drawn."""

    unanswerable: float
    """Share of rounds that get no mask."""
    absent: float
    """Of these, the share that asks for a structure of the brain that the slice does not show."""
    reject_unambiguous: float
    """Share of relation rounds drawn again when the text alone would answer them."""
    stray: float
    """Share of references that show a region no text has mentioned."""
    phrasing: Phrasing


TRAINING = Draw(unanswerable=0.15, absent=0.6, reject_unambiguous=0.75, stray=0.35, phrasing=Phrasing.DRESSED)
EVALUATION = Draw(unanswerable=0.0, absent=0.0, reject_unambiguous=0.0, stray=0.0, phrasing=Phrasing.PLAIN)
REPHRASED = replace(EVALUATION, phrasing=Phrasing.HELD_OUT)


@dataclass(frozen=True, slots=True)
class Shows:
    """What a view shows of the structures."""

    askable: Sequence[int]
    """Large enough to be asked for."""
    absent: Sequence[int]
    """Not there at all; a structure that is hardly there is neither."""


def dialogue(shows: Shows, rounds: int, how: Draw, random: np.random.Generator) -> list[Asked]:
    """A dialogue about what a view shows; its first round refers to nothing."""
    asked: list[Asked] = []
    while len(asked) < rounds:
        asked.append(_round(asked, shows, how, random))
    return asked


def standalone(askable: Sequence[int], referable: Sequence[int], random: np.random.Generator) -> list[Asked]:
    """One round that refers to a region no text has mentioned; none where nothing fits."""
    for _ in range(_TRIES):
        referred = int(random.choice(referable))
        found = _relation(referred, askable, TRAINING, random, 0)
        if found is not None:
            return [replace(found, stray=referred)]
    return []


def ambiguous(asked: Sequence[Asked], number: int) -> bool:
    """Whether round ``number`` has another answer for another earlier mask."""
    one = asked[number]
    if one.relation not in NEEDS_REFERENCE or one.relation is None:
        return False
    kind = PAIRED[one.target // 2] if one.target is not None and one.target < PAIRED_COUNT else ""
    earlier = [round_.target for round_ in asked[:number] if round_.target is not None]
    meant = {related(one.relation, target, kind) for target in earlier} - {None}
    return len(meant) > 1


def _round(asked: list[Asked], shows: Shows, how: Draw, random: np.random.Generator) -> Asked:
    askable = shows.askable
    if random.random() < how.unanswerable:
        if shows.absent and random.random() < how.absent:
            return questions.not_here(int(random.choice(shows.absent)), random, how.phrasing)
        return questions.unanswerable(random, how.phrasing)
    earlier = {number: one.target for number, one in enumerate(asked) if one.target is not None}
    for _ in range(_TRIES if earlier else 0):
        refer_to = int(random.choice(list(earlier)))
        stray = int(random.choice(askable)) if random.random() < how.stray else None
        found = _relation(earlier[refer_to] if stray is None else stray, askable, how, random, refer_to)
        if found is None:
            continue
        if stray is not None and found.refer_to is not None:
            return replace(found, stray=stray)
        plain = found.relation not in NEEDS_REFERENCE
        if plain or ambiguous([*asked, found], len(asked)) or random.random() >= how.reject_unambiguous:
            return found
    return _named(askable, None, how, random)


def _relation(
    referred: int, askable: Sequence[int], how: Draw, random: np.random.Generator, refer_to: int
) -> Asked | None:
    """A round drawn about the mask of round ``refer_to``, if its answer can be asked for."""
    relation = Relation(int(random.choice([r.value for r in _WEIGHTS], p=list(_WEIGHTS.values()))))
    pointless = refer_to if random.random() < _POINTLESS else None
    if relation is Relation.NAME:
        return _named(askable, pointless, how, random)
    kind = str(random.choice(_kinds(askable))) if relation in NEEDS_STRUCTURE and _kinds(askable) else PAIRED[0]
    target = related(relation, referred, kind)
    if target is None or target not in askable:
        return None
    text = questions.words(relation, questions.kind_spoken(kind, random), random, how.phrasing)
    needed = refer_to if relation in NEEDS_REFERENCE or random.random() < 0.5 else None
    return Asked(relation, text, needed, target, questions.answer(target, random))


def _kinds(askable: Sequence[int]) -> list[str]:
    """Paired names of which at least one side can be asked for, whole hemispheres excepted."""
    hemisphere = index("left cerebral hemisphere") // 2
    return sorted({PAIRED[k // 2] for k in askable if k < PAIRED_COUNT and k // 2 != hemisphere})


def _named(askable: Sequence[int], refer_to: int | None, how: Draw, random: np.random.Generator) -> Asked:
    target = int(random.choice(askable))
    text = questions.words(Relation.NAME, questions.spoken(target, random), random, how.phrasing)
    return Asked(Relation.NAME, text, refer_to, target, questions.answer(target, random))
