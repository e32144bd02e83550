"""The training code's own figures against numbers worked out by hand; the card against the evaluation."""

from __future__ import annotations

import json

import pytest

from tests.conftest import REPOSITORY
from training import card
from training.measure import judge_quality

LITE = REPOSITORY / "models" / "mediround-lite"


def test_the_judges_figures() -> None:
    found = judge_quality([0.2, 0.7, 0.7, 0.9], [0.1, 0.5, 0.8, 0.9], 0.6)
    # Good above bad: (0.7 and 0.9 over 0.2) and (0.9 over 0.7) count 1, the tie at 0.7 counts a half.
    assert found["auc_bad"] == pytest.approx(3.5 / 4)
    assert found["bad_share"] == 0.5
    assert found["fires"] == 0.25
    assert found["mean_absolute_error"] == pytest.approx(0.1)


def test_there_is_no_auc_without_both_kinds() -> None:
    assert judge_quality([0.2, 0.7], [0.9, 0.8], 0.6)["auc_bad"] is None


def test_the_card_says_what_was_measured() -> None:
    text = (LITE / "MODEL_CARD.md").read_text()
    assert card.rewritten(text, json.loads((LITE / "evaluation.json").read_text())) == text
