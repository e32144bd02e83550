"""gIoU, cIoU, Dice and the judge's calibration, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mediround.evaluate.calibration import calibration
from mediround.evaluate.metrics import Overlap, metrics, overlap

HALF = Overlap(predicted=4, target=8, intersection=3)  # union 9
EMPTY = Overlap(0, 0, 0)
MISSED = Overlap(0, 5, 0)


def test_pixels_are_counted() -> None:
    mask = np.array([[1, 1, 0], [0, 1, 1]], np.bool_)
    target = np.array([[1, 0, 0], [1, 1, 0]], np.bool_)
    assert overlap(mask, target) == Overlap(4, 3, 2)
    assert overlap(None, target) == Overlap(0, 3, 0)


def test_of_one_mask() -> None:
    found = metrics([HALF])
    assert found.giou == pytest.approx(3 / (9 + 1e-5), abs=1e-15)
    assert found.ciou == 3 / 9
    assert found.dice == pytest.approx(6 / (12 + 1e-6), abs=1e-15)


def test_means_and_sums_differ() -> None:
    """IoU 3/9 and 90/110; cIoU weighs by pixels, gIoU does not."""
    found = metrics([HALF, Overlap(100, 100, 90)])
    assert found.giou == pytest.approx((3 / 9 + 90 / 110) / 2, abs=1e-5)
    assert found.ciou == 93 / 119
    assert found.dice == pytest.approx((6 / 12 + 180 / 200) / 2, abs=1e-6)


def test_nothing_expected_and_nothing_predicted_counts_one() -> None:
    found = metrics([EMPTY])
    assert (found.giou, found.ciou, found.dice) == (1.0, None, 1.0)
    assert metrics([EMPTY, HALF]).ciou == 3 / 9


def test_a_missed_target_counts_nothing() -> None:
    found = metrics([MISSED])
    assert (found.giou, found.ciou, found.dice) == (0.0, 0.0, 0.0)


def test_calibration_by_hand() -> None:
    scores, ious = [0.9, 0.8, 0.55, 0.55, 0.2], [0.95, 0.5, 0.7, 0.6, 0.1]
    found = calibration(scores, ious, threshold=0.6)
    assert found is not None
    assert (found.rounds, found.bad) == (5, 3)
    # Good: 0.9 and 0.55. Bad: 0.8, 0.55, 0.2. Above: 3 of 3, and 1 of 3 with one tie.
    assert found.auc == pytest.approx((3 + 1.5) / 6)
    assert found.pearson == pytest.approx(np.corrcoef(scores, ious)[0, 1])
    assert found.mean_absolute_error == pytest.approx((0.05 + 0.3 + 0.15 + 0.05 + 0.1) / 5)
    assert [(b.lower, b.rounds) for b in found.bins] == [(0.2, 1), (0.5, 2), (0.8, 1), (0.9, 1)]
    assert found.bins[1].mean_iou == pytest.approx(0.65)


def test_calibration_of_what_does_not_vary() -> None:
    assert calibration([], [], 0.6) is None
    found = calibration([1.0, 1.0], [0.9, 0.8], 0.6)
    assert found is not None
    assert (found.pearson, found.auc, found.bins[0].rounds) == (None, None, 2)
