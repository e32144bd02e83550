"""What is drawn from a scenario and a seed."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.images import ImageMaker
from loadtest.plan import BESIDE, HEMISPHERE, MIRROR, Plan, arrival_times, image_numbers, references, related
from loadtest.scenario import Arrivals, Images, ScenarioError
from tests.loadtest.conftest import scenario


def times(**given: object) -> np.ndarray:
    return arrival_times(
        Arrivals.model_validate({"rate": 10.0, "duration": 100.0} | given), np.random.default_rng(0)
    )


def test_a_constant_process_is_even() -> None:
    assert np.allclose(times(process="constant"), np.arange(0.05, 100, 0.1))


def test_a_poisson_process_has_its_rate_and_its_spread() -> None:
    found = times(process="poisson", duration=1000.0)
    gaps = np.diff(found)
    assert len(found) == pytest.approx(10_000, rel=0.04)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert found[-1] < 1000


def test_bursts_come_at_once_and_keep_the_mean_rate() -> None:
    found = times(process="burst", burst=20)
    moments, counts = np.unique(found, return_counts=True)
    assert set(counts) == {20}
    assert np.allclose(np.diff(moments), 2.0)
    assert len(found) == 1000


def test_a_ramp_rises_evenly() -> None:
    found = times(process="constant", ramp=100.0, duration=10.0)
    assert int((found < 50).sum()) == pytest.approx(125, abs=1)  # a quarter of the ramp's 500
    assert int((found < 100).sum()) == pytest.approx(500, abs=1)
    assert int((found >= 100).sum()) == pytest.approx(100, abs=1)


def test_equal_seeds_draw_equal_plans_and_others_do_not() -> None:
    asked = scenario(rate=5, duration=20, dialogues={"rounds": (1, 6), "shapes": {"chain": 1, "mixed": 1}})
    once, again, other = list(Plan(asked, 1)), list(Plan(asked, 1)), list(Plan(asked, 2))
    assert once == again
    assert once != other
    assert [d.row for d in once] == list(np.cumsum([0, *(len(d.rounds) for d in once)])[:-1])


def test_the_shares_of_cancelled_and_hurried_rounds_are_kept() -> None:
    calls = {"cancel_share": 0.2, "deadline_share": 0.3}
    rounds = [r for d in Plan(scenario(rate=100, duration=20, calls=calls), 0) for r in d.rounds]
    cancelled = np.mean([r.cancel_after is not None for r in rounds])
    hurried = np.mean([r.deadline is not None for r in rounds])
    assert cancelled == pytest.approx(0.2, abs=0.04)
    assert hurried == pytest.approx(0.3, abs=0.04)
    assert not any(r.cancel_after and r.deadline for r in rounds)


def test_a_dialogue_known_in_advance_has_one_ending() -> None:
    asked = scenario(rate=20, calls={"cancel_share": 0.5}, dialogues={"mode": "known", "rounds": (4, 4)})
    for dialogue in Plan(asked, 0):
        assert len({r.cancel_after for r in dialogue.rounds}) == 1
        assert {r.due for r in dialogue.rounds} == {dialogue.start}


def test_references_point_back() -> None:
    random = np.random.default_rng(0)
    assert references("chain", 4, random) == [None, 0, 1, 2]
    assert references("star", 4, random) == [None, 0, 0, 0]
    assert references("none", 4, random) == [None] * 4
    mixed = references("mixed", 64, random)
    assert all(earlier is None or earlier < k for k, earlier in enumerate(mixed))
    assert len(set(mixed)) > 10


def test_every_answer_names_what_its_question_asks_for() -> None:
    dialogues = {"rounds": (6, 6), "shapes": {"chain": 1, "star": 1, "mixed": 1}}
    plan = list(Plan(scenario(rate=10, duration=20, dialogues=dialogues), 0))
    for rounds in (dialogue.rounds for dialogue in plan):
        names = [asked.answer.removeprefix("It is the ").removesuffix(" [SEG].") for asked in rounds]
        for asked, name in zip(rounds, names, strict=True):
            if asked.refer_to is None:
                assert asked.question == f"Segment the {name}."
            else:
                assert name == related(asked.question, names[asked.refer_to])
    assert {asked.answer.count("[SEG]") for dialogue in plan for asked in dialogue.rounds} == {1}


@pytest.mark.parametrize(
    ("relation", "name", "meant"),
    [
        (MIRROR, "left thalamus", "right thalamus"),
        (MIRROR, "brain", "brain"),
        (HEMISPHERE, "right caudate nucleus", "right cerebral hemisphere"),
        (HEMISPHERE, "cerebellum", "brain"),
        (BESIDE, "left thalamus", "region beside it"),
        (MIRROR, "region beside it", "region beside it"),
    ],
)
def test_what_a_relation_asks_for(relation: str, name: str, meant: str) -> None:
    assert related(relation, name) == meant


def test_images_are_reused_among_the_newest() -> None:
    numbers = image_numbers(Images(reuse=0.4, pool=3), 20_000, np.random.default_rng(0))
    newest = np.maximum.accumulate(numbers)
    new = np.diff(newest, prepend=-1) == 1
    assert new.mean() == pytest.approx(0.6, abs=0.02)
    assert np.all(newest - numbers < 3)
    assert set(newest[~new] - numbers[~new]) == {0, 1, 2}


def test_images_are_made_again_alike_and_held_up_to_the_pool() -> None:
    images = Images(size=(32, 48), pool=2)
    maker = ImageMaker(images, 7, [])
    made = [np.asarray(maker.image(n)) for n in range(5)]
    assert made[0].shape == (32, 48, 3)
    assert len({pixels.tobytes() for pixels in made}) == 5
    assert len(maker._kept) == 2
    assert np.array_equal(ImageMaker(images, 7, []).image(3), made[3])
    assert not np.array_equal(ImageMaker(images, 8, []).image(3), made[3])


def test_a_picture_is_varied_within_a_grey_level() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = [np.asarray(ImageMaker(Images(), 0, [picture]).image(n)).astype(int) for n in range(2)]
    assert not np.array_equal(*made)
    assert np.abs(made[0] - picture).max() == 1
    assert made[0][0, 0] == 0


def test_a_plan_without_a_dialogue_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no dialogue would start"):
        Plan(scenario(rate=0.001, duration=1.0), 0)
