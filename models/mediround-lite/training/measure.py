"""What played dialogues are worth: Dice by round, relation and structure, and names.

Knows scores and tables of plain numbers. Does not know networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from training.dialogues import ambiguous
from training.play import Said, Scene
from training.questions import ANSWERS, Asked
from training.targets import NAMES
from training.vision import dice, iou

Table = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Scored:
    """One round, scored against the label of the structure that was meant."""

    round: int
    """Its index in the dialogue, from 0."""
    relation: str
    ambiguous: bool
    structure: str
    named: bool
    """The answer's words name the structure that was meant."""
    segmented: bool
    dice: float
    iou: float
    score: float
    corrected: bool


def score_dialogue(scene: Scene, asked: Sequence[Asked], said: Sequence[Said]) -> list[Scored]:
    """Score every round that has a right structure; no mask scores 0."""
    scored = []
    for number, (one, answer) in enumerate(zip(asked, said, strict=True)):
        if one.target is None or one.relation is None:
            continue
        truth = (scene.view.labels & np.uint32(1 << one.target)) > 0
        mask = np.zeros_like(truth) if answer.mask is None else answer.mask
        right = {template.format(NAMES[one.target]) for template in ANSWERS}
        named = answer.words.partition("[SEG]")[0] in right
        hard = ambiguous(asked, number)
        relation = one.relation.name.lower()
        scored.append(
            Scored(number, relation, hard, NAMES[one.target], named, answer.mask is not None,
                   dice(mask, truth), iou(mask, truth), answer.score, answer.corrected)
        )  # fmt: skip
    return scored


def row(scored: Iterable[Scored]) -> Table:
    """Mean Dice and share of right names of some rounds."""
    found = list(scored)
    if not found:
        return {"n": 0, "dice": None, "names": None}
    return {
        "n": len(found),
        "dice": round(float(np.mean([one.dice for one in found])), 4),
        "names": round(float(np.mean([one.named for one in found])), 4),
    }


def tables(scored: Sequence[Scored]) -> dict[str, object]:
    """All rounds, by round, by relation, by need of the reference, by structure."""
    return {
        "all": row(scored),
        "by_round": _by(scored, lambda one: str(one.round)),
        "by_relation": _by(scored, lambda one: one.relation),
        "ambiguous_without_reference": row(one for one in scored if one.ambiguous),
        "by_structure": _by(scored, lambda one: one.structure),
        "without_a_mask": sum(not one.segmented for one in scored),
    }


def judge_quality(scores: Sequence[float], truths: Sequence[float], threshold: float) -> Table:
    """How the judge's score follows the true IoU."""
    score, truth = np.asarray(scores), np.asarray(truths)
    bad = truth <= threshold
    area = None
    if bad.any() and not bad.all():
        above = score[~bad][:, None] > score[bad][None]
        ties = score[~bad][:, None] == score[bad][None]
        area = round(float(np.mean(above + 0.5 * ties)), 4)
    return {
        "n": int(score.size),
        "pearson": round(float(np.corrcoef(score, truth)[0, 1]), 4),
        "mean_absolute_error": round(float(np.abs(score - truth).mean()), 4),
        "auc_bad": area,
        "bad_share": round(float(bad.mean()), 4),
        "fires": round(float((score <= threshold).mean()), 4),
    }


def _by(scored: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, Table]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        groups[key(one)].append(one)
    return {name: row(groups[name]) for name in sorted(groups)}
