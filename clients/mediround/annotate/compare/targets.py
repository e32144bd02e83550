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

    Attributes:
        rounds: with a target, answered in both runs.
        images: that they are of.
        unreadable: targets that could not be read, or are of another size.
        earlier: mean Dice of the earlier run.
        later: of the later one.
        low: of the 95 % interval of later minus earlier, by images.
        high: the same.
    """

    rounds: int
    images: int
    unreadable: int
    earlier: float
    later: float
    low: float
    high: float


def nearness(counts: F64, earlier: F64, later: F64, unreadable: int, seed: int = 0) -> Nearness | None:
    """Of images' counts of rounds and sums of Dice, each (N,). None: there is none."""
    if not len(counts):
        return None
    low, high = interval(counts, later - earlier, seed)
    total = float(counts.sum())
    means = float(earlier.sum()) / total, float(later.sum()) / total
    return Nearness(int(total), len(counts), unreadable, *means, low, high)


def interval(counts: F64, sums: F64, seed: int = 0) -> tuple[float, float]:
    """95 % of the means ``sums / counts`` of images drawn with replacement lie within; both (N,), N at least 1."""
    generator, size = np.random.default_rng(seed), len(counts)
    draws = max(_LEAST_DRAWS, min(_DRAWS, _MOST_VALUES // size))
    means = np.empty(draws)
    for number in range(draws):
        drawn = generator.integers(0, size, size)
        means[number] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
