"""How far two runs agree on one structure: Dice between them, masks of one alone, drift of scores and areas.

Knows sums, and Dice in bins of 0.0001, so that memory does not grow with the rounds. Does not know where pairs
come from.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from mediround.annotate.compare.pairs import Pair

_BINS = 10_000
_QUANTILES = (0.01, 0.05, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one structure's rounds, or of all.

    Attributes:
        structure: the questions' label; empty: of all.
        rounds: answered in both runs.
        both: of them, with a mask in both.
        earlier_only: with a mask in the earlier run alone.
        later_only: with a mask in the later run alone.
        dice: mean between the two runs, of ``both``; None where there is none.
        dice_quantiles: below which 1, 5, 25 and 50 % of them lie, to 0.0001.
        identical: share of ``both`` whose masks are equal in every pixel.
        score_change: mean of later minus earlier, where both were judged.
        area_change: change of the sum of all areas, as a share of the earlier one.
    """

    structure: str
    rounds: int
    both: int
    earlier_only: int
    later_only: int
    dice: float | None
    dice_quantiles: dict[str, float]
    identical: float | None
    score_change: float | None
    area_change: float | None

    @property
    def one_sided(self) -> float:
        """Share of rounds with a mask in one run alone."""
        return (self.earlier_only + self.later_only) / self.rounds if self.rounds else 0.0


@dataclass(slots=True)
class Tally:
    """What ``Agreement`` is made of."""

    structure: str
    rounds: int = 0
    earlier_only: int = 0
    later_only: int = 0
    identical: int = 0
    dice_sum: float = 0.0
    scored: int = 0
    score_sum: float = 0.0
    areas: list[int] = field(default_factory=lambda: [0, 0])
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, pair: Pair, dice: float | None) -> None:
        """``dice`` of a pair that both runs answered."""
        one, other = pair.earlier, pair.later
        self.rounds += 1
        self.earlier_only += one.counts is not None and other.counts is None
        self.later_only += one.counts is None and other.counts is not None
        self.areas[0] += one.area
        self.areas[1] += other.area
        if dice is not None:
            self.bins[int(dice * _BINS)] += 1
            self.dice_sum += dice
            self.identical += one.mask_digest == other.mask_digest
        if one.score is not None and other.score is not None:
            self.scored += 1
            self.score_sum += other.score - one.score

    def agreement(self) -> Agreement:
        both = self.bins.total()
        steps = sorted(self.bins)
        below = np.cumsum([self.bins[step] for step in steps])
        quantiles = {
            f"{share:g}": steps[int(np.searchsorted(below, share * both))] / _BINS for share in _QUANTILES if both
        }
        return Agreement(
            structure=self.structure,
            rounds=self.rounds,
            both=both,
            earlier_only=self.earlier_only,
            later_only=self.later_only,
            dice=self.dice_sum / both if both else None,
            dice_quantiles=quantiles,
            identical=self.identical / both if both else None,
            score_change=self.score_sum / self.scored if self.scored else None,
            area_change=self.areas[1] / self.areas[0] - 1 if self.areas[0] else None,
        )
