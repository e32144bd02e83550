"""gIoU, cIoU and Dice of predicted masks against their targets, as the published evaluation defines them.

Knows counts of pixels. Does not know images, rounds or the service. A round without a mask counts as an empty
prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]

_IOU_EPSILON, _DICE_EPSILON = 1e-5, 1e-6


@dataclass(frozen=True, slots=True)
class Overlap:
    """Pixels of the foreground."""

    predicted: int
    target: int
    intersection: int

    @property
    def union(self) -> int:
        return self.predicted + self.target - self.intersection

    @property
    def iou(self) -> float:
        """I / (U + 1e-5), plus 1 where the union is empty."""
        return self.intersection / (self.union + _IOU_EPSILON) + (self.union == 0)

    @property
    def dice(self) -> float:
        """2 I / (|a| + |b| + 1e-6), plus 1 where the union is empty."""
        return 2 * self.intersection / (self.predicted + self.target + _DICE_EPSILON) + (self.union == 0)


@dataclass(frozen=True, slots=True)
class Metrics:
    giou: float
    """Mean IoU of the masks."""
    ciou: float | None
    """Intersections over unions, each summed; None where every union is empty."""
    dice: float


def overlap(mask: Bits | None, target: Bits) -> Overlap:
    """Compare a mask (None: there is none) with its target, both (H, W)."""
    if mask is None:
        return Overlap(0, int(np.count_nonzero(target)), 0)
    both = int(np.count_nonzero(mask & target))
    return Overlap(int(np.count_nonzero(mask)), int(np.count_nonzero(target)), both)


def metrics(overlaps: Sequence[Overlap]) -> Metrics:
    """Over at least one mask."""
    union = sum(one.union for one in overlaps)
    return Metrics(
        giou=sum(one.iou for one in overlaps) / len(overlaps),
        ciou=sum(one.intersection for one in overlaps) / union if union else None,
        dice=sum(one.dice for one in overlaps) / len(overlaps),
    )
