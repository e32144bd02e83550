"""How well the judge's score foretells a mask's IoU.

Knows pairs of numbers. Does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_BINS = 10
_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Rounds whose score lies in [lower, upper); the last one holds 1 too.

    Attributes:
        lower: least score.
        upper: bound of the scores.
        rounds: how many.
        mean_score: of these rounds.
        mean_iou: of the same.
    """

    lower: float
    upper: float
    rounds: int
    mean_score: float
    mean_iou: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the judge's scores foretell the masks' IoU.

    Attributes:
        rounds: scored rounds that were not corrected.
        threshold: a mask whose IoU is at most this is bad.
        bad: bad masks.
        pearson: correlation of score and IoU; None where scores or IoUs do not vary.
        auc: chance that a bad mask's score lies below a good one's (a tie counts half); None without both kinds.
        mean_absolute_error: of the score against the IoU.
        bins: of the reliability diagram; empty bins are left out.
    """

    rounds: int
    threshold: float
    bad: int
    pearson: float | None
    auc: float | None
    mean_absolute_error: float
    bins: tuple[Bin, ...]


def calibration(scores: Sequence[float], ious: Sequence[float], threshold: float) -> Calibration | None:
    """None where there is no pair."""
    if not scores:
        return None
    score, iou = np.asarray(scores, np.float64), np.asarray(ious, np.float64)
    bad = iou <= threshold
    return Calibration(
        rounds=score.size,
        threshold=threshold,
        bad=int(bad.sum()),
        pearson=float(np.corrcoef(score, iou)[0, 1]) if score.std() > 0 and iou.std() > 0 else None,
        auc=_auc(score, bad),
        mean_absolute_error=float(np.abs(score - iou).mean()),
        bins=_bins(score, iou),
    )


def _auc(score: _F64, bad: npt.NDArray[np.bool_]) -> float | None:
    if bad.all() or not bad.any():
        return None
    lower = np.sort(score[bad])
    good = score[~bad]
    below = np.searchsorted(lower, good, side="left")  # bad scores below each good one
    level = np.searchsorted(lower, good, side="right") - below
    return float((below + level / 2).mean() / lower.size)


def _bins(score: _F64, iou: _F64) -> tuple[Bin, ...]:
    place = np.clip((score * _BINS).astype(np.int64), 0, _BINS - 1)
    found = [(k, place == k) for k in range(_BINS)]
    return tuple(
        Bin(k / _BINS, (k + 1) / _BINS, int(inside.sum()), float(score[inside].mean()), float(iou[inside].mean()))
        for k, inside in found
        if inside.any()
    )
