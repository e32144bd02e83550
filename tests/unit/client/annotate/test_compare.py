"""Two runs compared: what they agree in, and what a site is told."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mediround import _annotate_entry
from mediround.__main__ import main
from mediround.annotate.compare.comparing import compare
from mediround.annotate.compare.targets import interval
from mediround.annotate.compare.verdict import Tolerances
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from tests.unit.client.annotate.jobs import (
    OTHER,
    QUESTIONS,
    answered,
    disc,
    failed,
    job_of,
    keep,
    picture,
    png,
)

FEW = Tolerances(least_rounds=3, least_images=3)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return [picture(tmp_path / "images", number) for number in range(4)]


def two_runs(folder: Path, items: list[Item]) -> tuple[Job, Run, Run]:
    """A job and its two runs; in the earlier one every item has the same two masks."""
    job, earlier = job_of(folder / "job", items)
    keep(earlier, *(answered(item, earlier, (disc(5), disc(3)), 0.8) for item in items))
    return job, earlier, job.take_up(OTHER, new=True)


def test_equal_runs_are_within_tolerances(tmp_path: Path, items: list[Item]) -> None:
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(answered(item, later, (disc(5), disc(3)), 0.8) for item in items))
    found = compare(job, earlier, later, FEW)
    assert (found.verdict.result, found.items, found.disagreements) == ("within tolerances", 4, ())
    assert [(each.structure, each.dice, each.identical) for each in found.structures] == [
        ("Liver", 1.0, 1.0),
        ("Wall", 1.0, 1.0),
    ]
    assert compare(job, earlier, later, Tolerances()).verdict.result == "no verdict"


def test_the_biggest_disagreement_is_told_first(tmp_path: Path, items: list[Item]) -> None:
    job, earlier, later = two_runs(tmp_path, items)
    masks = [(disc(5), disc(3)), (disc(4), disc(3)), (disc(5), None), (disc(5), disc(2))]
    keep(later, *(answered(item, later, each, 0.7) for item, each in zip(items, masks, strict=True)))
    found = compare(job, earlier, later, FEW, most=2)
    small = 2 * disc(2).sum() / (disc(2).sum() + disc(3).sum())
    assert [(each.item_id, each.round, each.dice) for each in found.disagreements] == [
        (items[2].item_id, 1, 0.0),
        (items[3].item_id, 1, pytest.approx(small)),
    ]
    wall = found.structures[0]
    assert (wall.structure, wall.rounds, wall.both, wall.earlier_only) == ("Wall", 4, 3, 1)
    assert wall.dice == pytest.approx((2 + small) / 3)
    assert wall.dice_quantiles["0.01"] == pytest.approx(small, abs=1e-4)
    assert wall.score_change == pytest.approx(-0.1)
    assert found.verdict.result == "beyond tolerances"
    missed = {check.what.split(":")[1] for check in found.verdict.checks if check.met is False}
    assert " masks in one run alone" in missed
    assert " mean score, change" in missed


def test_items_that_fail_now_count_against_a_model(tmp_path: Path, items: list[Item]) -> None:
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(answered(item, later, (disc(5), disc(3))) for item in items[1:]), failed(items[0], later))
    found = compare(job, earlier, later, FEW)
    assert (found.failed_later, found.failed_earlier, found.verdict.result) == (1, 0, "beyond tolerances")


def test_where_targets_are_they_decide(tmp_path: Path) -> None:
    (tmp_path / "truth.png").write_bytes(png(disc(5).astype(np.uint8) * 255))
    questions = (replace(QUESTIONS[0], truth=(tmp_path / "truth.png").as_uri()),)
    items = [picture(tmp_path / "images", number, questions) for number in range(4)]
    job, earlier = job_of(tmp_path / "job", items)
    keep(earlier, *(answered(item, earlier, (disc(3 + n % 2),)) for n, item in enumerate(items)))
    later = job.take_up(OTHER, new=True)
    keep(later, *(answered(item, later, (disc(5),)) for item in items))
    found = compare(job, earlier, later, FEW)
    assert found.targets is not None
    assert (found.targets.later, found.targets.images) == (1.0, 4)
    assert 0 < found.targets.low <= found.targets.later - found.targets.earlier <= found.targets.high
    assert found.verdict.result == "within tolerances"
    assert compare(job, later, earlier, FEW).verdict.result == "beyond tolerances"
    assert compare(job, earlier, later, replace(FEW, least_images=5)).verdict.result == "no verdict"
    (tmp_path / "truth.png").unlink()
    assert compare(job, earlier, later, FEW).targets is None


def test_the_interval_is_of_images_and_not_of_rounds() -> None:
    generator = np.random.default_rng(1)
    effects = generator.normal(0.02, 0.1, 200)
    once = interval(np.ones(200), effects)
    many = interval(np.full(200, 50.0), effects * 50)
    assert np.allclose(once, many)
    assert once[0] < effects.mean() < once[1]
    assert 3.0 < (once[1] - once[0]) / (effects.std() / np.sqrt(200)) < 4.8


def test_the_command_says_which_runs_and_ends_by_the_verdict(
    tmp_path: Path, items: list[Item], capsys: pytest.CaptureFixture[str]
) -> None:
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(answered(item, later, (disc(5), disc(3)), 0.8) for item in items))
    place = ["annotate", "compare", "--job", str(job.folder)]
    assert main([*place, "--least-rounds", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["result"] == "within tolerances"
    assert main(place) == 3
    assert "no verdict" in capsys.readouterr().out
    assert main([*place, "--later", earlier.key[:8], "--earlier", "77"]) == 2
    assert earlier.folder.name in capsys.readouterr().err


def test_the_options_are_the_tolerances() -> None:
    options = {name.replace("-", "_"): default for name, default, _ in _annotate_entry.TOLERANCES}
    assert options == {each.name: each.default for each in fields(Tolerances)}
