"""Drawn dialogues: what a relation means, when a reference is needed, and words that training never meets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from training import questions
from training.dialogues import EVALUATION, TRAINING, Draw, Shows, ambiguous, dialogue
from training.questions import NEEDS_REFERENCE, Asked, Relation, related
from training.targets import NAMES, index

ALL = Shows(range(len(NAMES)), ())


def round_of(relation: Relation, refer_to: int | None, target: str) -> Asked:
    return Asked(relation, "", refer_to, index(target), "")


@pytest.mark.parametrize(
    ("relation", "referred", "kind", "meant"),
    [
        (Relation.MIRROR, "left thalamus", "", "right thalamus"),
        (Relation.SAME_SIDE, "left thalamus", "insula", "left insula"),
        (Relation.OTHER_SIDE, "left thalamus", "insula", "right insula"),
        (Relation.HEMISPHERE, "right insula", "", "right cerebral hemisphere"),
        (Relation.HEMISPHERE, "right cerebellum", "", None),
        (Relation.LOBE, "left hippocampus", "", "left temporal lobe"),
        (Relation.LOBE, "left insula", "", None),
        (Relation.MIRROR, "brain stem", "", None),
        (Relation.BRAIN, "vermis", "", "brain"),
    ],
)
def test_a_relation_means(relation: Relation, referred: str, kind: str, meant: str | None) -> None:
    found = related(relation, index(referred), kind)
    assert found == (None if meant is None else index(meant))


def test_a_question_is_ambiguous_where_another_earlier_mask_would_answer_it_otherwise() -> None:
    first = round_of(Relation.NAME, None, "left thalamus")
    second = round_of(Relation.NAME, None, "right insula")
    mirror = round_of(Relation.MIRROR, 0, "right thalamus")
    assert not ambiguous([first, mirror], 1)
    assert ambiguous([first, second, mirror], 2)
    assert not ambiguous([first, second, round_of(Relation.BRAIN, 0, "brain")], 2)


@pytest.mark.parametrize("how", [TRAINING, EVALUATION])
def test_every_reference_is_to_an_earlier_mask_and_is_needed_by_its_relation(how: Draw) -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        asked = dialogue(ALL, 6, how, random)
        for number, one in enumerate(asked):
            if one.relation in NEEDS_REFERENCE:
                assert one.refer_to is not None
            if one.refer_to is not None:
                assert one.refer_to < number
                assert asked[one.refer_to].target is not None


def test_training_never_meets_a_held_out_phrasing() -> None:
    committed = json.loads((REPOSITORY / "models/mediround-lite/dialogues_test.json").read_text())
    held_out = {
        questions._bare(one["question"])
        for played in committed["dialogues"]
        if played["phrasing"] == "held_out"
        for one in played["rounds"]
    }
    assert len(held_out) > 100
    random = np.random.default_rng(1)
    asked = [one for _ in range(300) for one in dialogue(ALL, 6, TRAINING, random)]
    assert not held_out & {questions._bare(one.text) for one in asked}
