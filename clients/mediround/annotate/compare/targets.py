"""How near two runs come to target masks, and an interval of the difference by a bootstrap over images.

Rounds of one image are not independent, so images are drawn, not rounds (the paired cluster bootstrap of Field and
Welsh, 2007). Knows Dice and draws. Does not know runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
_DRAWS, _MOST_VALUES, _LEAST_DRAWS = 2000, 20_000_000, 200


@dataclass(frozen=True, slots=True)
class Nearness:
    """Dice of both runs with the targets. A round without a mask counts as an empty one.

    Where the target and both masks are empty, nothing was to be found and nothing was: of a rare structure nearly
    all rounds are such, so they are counted apart. A mask where the target is empty has Dice 0, and no mask there,
    where the other run has one, 1.

    Attributes:
        structure: label; empty: all that have targets.
        rounds: with a target, answered in both runs.
        empty: of them, those whose target and both masks are empty: they count in nothing below.
        images: that the others are of.
        whole: every round has a target that can be read.
        earlier: mean Dice of the earlier run.
        later: of the later one.
        low: of the 95 % interval of later minus earlier, by images.
        high: the same.
        earlier_interval: of the earlier run's mean, 95 % by the same draws.
        later_interval: of the later one's.
    """

    structure: str
    rounds: int
    empty: int
    images: int
    whole: bool
    earlier: float
    later: float
    low: float
    high: float
    earlier_interval: tuple[float, float]
    later_interval: tuple[float, float]

    @property
    def change(self) -> float:
        return self.later - self.earlier


def nearness(
    structure: str, counts: F64, earlier: F64, later: F64, *, empty: int, whole: bool, seed: int = 0
) -> Nearness:
    """Of images' counts of rounds and sums of Dice, each (N,), N at least 1."""
    change, before, after = intervals(counts, np.stack([later - earlier, earlier, later], axis=1), seed)
    total = float(counts.sum())
    means = float(earlier.sum()) / total, float(later.sum()) / total
    return Nearness(structure, int(total) + empty, empty, len(counts), whole, *means, *change, before, after)


def intervals(counts: F64, sums: F64, seed: int = 0) -> list[tuple[float, float]]:
    """95 % of the means ``sums / counts`` of images drawn with replacement lie within, of each of K columns.

    Args:
        counts: (N,), N at least 1.
        sums: (N, K).
    """
    generator, size = np.random.default_rng(seed), len(counts)
    draws = max(_LEAST_DRAWS, min(_DRAWS, _MOST_VALUES // size))
    means = np.empty((draws, sums.shape[1]))
    for number in range(draws):
        drawn = generator.integers(0, size, size)
        means[number] = sums[drawn].sum(0) / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975), axis=0)
    return [(float(one), float(other)) for one, other in zip(low, high, strict=True)]
