"""What is measured was never trained on."""

from __future__ import annotations

import json

from tests.conftest import REPOSITORY
from training import between, split

LITE = REPOSITORY / "models" / "mediround-lite"


def test_training_keeps_its_distance_from_what_is_measured() -> None:
    held = {*split.dev(), *split.test()}
    assert len(held) == len(split.dev()) + len(split.test())
    assert min(abs(z - other) for z in split.train() for other in held) > split.GAP


def test_made_up_slices_lie_in_gaps_alone() -> None:
    made_up = set(between.gaps(split.train()))
    assert made_up
    assert not made_up & set(split.train())


def test_the_committed_split_and_evaluation_are_of_these_slices() -> None:
    committed = json.loads((LITE / "split.json").read_text())
    assert committed["train"] == split.train()
    report = json.loads((LITE / "evaluation.json").read_text())
    assert committed["test"] == report["test"]["slices"] == split.test()
    assert committed["dev"] == report["dev"]["slices"] == split.dev()
