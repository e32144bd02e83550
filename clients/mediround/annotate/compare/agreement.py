"""How far two runs agree on one structure: Dice between them, masks of one alone, drift of scores and areas.

Knows sums, and values in bins, so that memory does not grow with the rounds. Does not know where pairs come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mediround.annotate.compare.pairs import Kind, Pair

_DICE_BINS, _DRIFT_BINS = 10_000, 1000
"""Bins a unit."""
_LOW, _SPREAD = (0.01, 0.05, 0.25, 0.5), (0.05, 0.5, 0.95)
MOST_GROWTH = 2.0
"""Of a round's area, as a share of the earlier one: more counts as so much."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one structure's rounds, or of all.

    Rounds in which neither run draws anything say nothing of how a structure is drawn, and of a rare one they are
    nearly all: they are counted, and left out of all else.

    Attributes:
        structure: the questions' label; empty: of all.
        rounds: answered in both runs.
        empty: of them, without a pixel in either run.
        both: of the others, with a mask in both.
        earlier_only: with a mask in the earlier run alone.
        later_only: with a mask in the later run alone.
        other_size: with a mask in both, of different sizes.
        dice: mean between the two runs, of ``both``; None where there is none.
        dice_quantiles: below which 1, 5, 25 and 50 % of them lie, to 0.0001.
        identical: share of ``both`` whose masks are equal in every pixel.
        scored: rounds that both runs judged, but for ``empty``.
        scored_alone: rounds with a mask in both that one run alone judged.
        score_change: mean of later minus earlier, of ``scored``.
        score_quantiles: of it, 5, 50 and 95 %, to 0.001.
        area_change: change of the sum of all areas, as a share of the earlier one; None: there was no pixel.
        area_quantiles: the same of a round with a mask in both, 5, 50 and 95 %, to 0.001 and at most 2.
    """

    structure: str
    rounds: int
    empty: int
    both: int
    earlier_only: int
    later_only: int
    other_size: int
    dice: float | None
    dice_quantiles: dict[str, float]
    identical: float | None
    scored: int
    scored_alone: int
    score_change: float | None
    score_quantiles: dict[str, float]
    area_change: float | None
    area_quantiles: dict[str, float]

    @property
    def drawn(self) -> int:
        """Rounds in which either run draws something."""
        return self.rounds - self.empty

    @property
    def one_sided(self) -> float:
        """Of ``drawn``, the share with a mask in one run alone, or masks of different sizes."""
        return (self.earlier_only + self.later_only + self.other_size) / self.drawn if self.drawn else 0.0


@dataclass(slots=True)
class Tally:
    """What ``Agreement`` is made of."""

    structure: str
    rounds: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    identical: int = 0
    dice_sum: float = 0.0
    scored_alone: int = 0
    score_sum: float = 0.0
    areas: list[int] = field(default_factory=lambda: [0, 0])
    dices: Counter[int] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)
    growths: Counter[int] = field(default_factory=Counter)

    def add(self, pair: Pair, dice: float | None) -> None:
        """``dice`` of a pair that both runs answered."""
        one, other = pair.earlier, pair.later
        self.rounds += 1
        self.kinds[pair.kind] += 1
        if pair.kind == "empty":
            return
        self.areas[0] += one.area
        self.areas[1] += other.area
        if dice is not None:
            self.dices[int(dice * _DICE_BINS)] += 1
            self.dice_sum += dice
            self.identical += one.mask_digest == other.mask_digest
            growth = (other.area - one.area) / max(one.area, 1)
            self.growths[round(min(growth, MOST_GROWTH) * _DRIFT_BINS)] += 1
            self.scored_alone += (one.score is None) != (other.score is None)
        if one.score is not None and other.score is not None:
            change = min(max(other.score - one.score, -1.0), 1.0)
            self.score_sum += change
            self.scores[round(change * _DRIFT_BINS)] += 1

    def agreement(self) -> Agreement:
        both, scored = self.kinds["both"], self.scores.total()
        return Agreement(
            structure=self.structure,
            rounds=self.rounds,
            empty=self.kinds["empty"],
            both=both,
            earlier_only=self.kinds["earlier_only"],
            later_only=self.kinds["later_only"],
            other_size=self.kinds["other_size"],
            dice=self.dice_sum / both if both else None,
            dice_quantiles=_quantiles(self.dices, _DICE_BINS, _LOW),
            identical=self.identical / both if both else None,
            scored=scored,
            scored_alone=self.scored_alone,
            score_change=self.score_sum / scored if scored else None,
            score_quantiles=_quantiles(self.scores, _DRIFT_BINS, _SPREAD),
            area_change=_change(*self.areas),
            area_quantiles=_quantiles(self.growths, _DRIFT_BINS, _SPREAD),
        )


def _quantiles(bins: Counter[int], steps_a_unit: int, shares: Sequence[float]) -> dict[str, float]:
    if not bins:
        return {}
    steps = sorted(bins)
    below = np.cumsum([bins[step] for step in steps])
    places = [int(np.searchsorted(below, share * below[-1])) for share in shares]
    return {f"{share:g}": steps[place] / steps_a_unit for share, place in zip(shares, places, strict=True)}


def _change(before: int, after: int) -> float | None:
    if not before:
        return None if after else 0.0
    return after / before - 1
