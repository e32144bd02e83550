"""Two runs compared: what they agree in, and what a site is told."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from mediround import _annotate_entry
from mediround.__main__ import main
from mediround.annotate.compare import comparing
from mediround.annotate.compare.comparing import compare
from mediround.annotate.compare.targets import intervals
from mediround.annotate.compare.verdict import Tolerances
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.manifest import write_manifest
from mediround.annotate.rows import Row
from mediround.masks import Bits
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
    gone = compare(job, earlier, later, FEW)
    assert (gone.targets, gone.verdict.result) == (None, "beyond tolerances")
    assert (
        "4 could not be" in {check.what: check.found for check in gone.verdict.checks}["targets that can be read"]
    )


def test_a_structure_that_falls_is_not_made_up_for_by_another(tmp_path: Path) -> None:
    """The mean of both rises."""
    truths = []
    for number, radius in enumerate((5, 3)):
        (tmp_path / f"{number}.png").write_bytes(png(disc(radius).astype(np.uint8) * 255))
        truths.append((tmp_path / f"{number}.png").as_uri())
    questions = tuple(replace(each, truth=truth) for each, truth in zip(QUESTIONS, truths, strict=True))
    items = [picture(tmp_path / "images", number, questions) for number in range(4)]
    job, earlier = job_of(tmp_path / "job", items)
    keep(earlier, *(answered(item, earlier, (disc(1), disc(3))) for item in items))
    later = job.take_up(OTHER, new=True)
    keep(later, *(answered(item, later, (disc(5), disc(2))) for item in items))
    found = compare(job, earlier, later, FEW)
    assert found.targets is not None
    assert found.targets.low > 0
    assert found.verdict.result == "beyond tolerances"
    assert [each.structure for each in found.near] == ["Wall", "Liver"]
    assert {check.what for check in found.verdict.checks if check.met is False} == {
        "Wall: Dice with targets, change"
    }


def test_a_structure_whose_images_differ_needs_more_of_them(tmp_path: Path) -> None:
    """The mean is as it was, but by chance it might have fallen."""
    (tmp_path / "truth.png").write_bytes(png(disc(4).astype(np.uint8) * 255))
    questions = (replace(QUESTIONS[0], truth=(tmp_path / "truth.png").as_uri()),)
    items = [picture(tmp_path / "images", number, questions) for number in range(4)]
    job, earlier = job_of(tmp_path / "job", items)
    keep(earlier, *(answered(item, earlier, (disc(4 if n < 2 else 2),)) for n, item in enumerate(items)))
    later = job.take_up(OTHER, new=True)
    keep(later, *(answered(item, later, (disc(2 if n < 2 else 4),)) for n, item in enumerate(items)))
    verdict = compare(job, earlier, later, FEW).verdict
    liver = {check.what: check for check in verdict.checks}["Liver: Dice with targets, change"]
    assert (verdict.result, liver.met) == ("no verdict", None)
    assert "more images" in liver.found


def test_structures_without_targets_are_judged_by_agreement(tmp_path: Path) -> None:
    (tmp_path / "truth.png").write_bytes(png(disc(5).astype(np.uint8) * 255))
    questions = (replace(QUESTIONS[0], truth=(tmp_path / "truth.png").as_uri()), QUESTIONS[1])
    items = [picture(tmp_path / "images", number, questions) for number in range(4)]
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(answered(item, later, (disc(5), disc(1)), 0.8) for item in items))
    found = compare(job, earlier, later, FEW)
    assert {check.what for check in found.verdict.checks if check.met is False} == {
        "Wall: Dice between the runs",
        "Wall: summed area, change",
    }


def test_a_target_of_one_round_does_not_speak_for_its_structure(tmp_path: Path) -> None:
    (tmp_path / "truth.png").write_bytes(png(disc(5).astype(np.uint8) * 255))
    aimed = replace(QUESTIONS[0], truth=(tmp_path / "truth.png").as_uri())
    questions = [(aimed, replace(QUESTIONS[1], truth=aimed.truth if number == 0 else "")) for number in range(4)]
    items = [picture(tmp_path / "images", number, each) for number, each in enumerate(questions)]
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(answered(item, later, (disc(5), disc(3 if n == 0 else 1)), 0.8) for n, item in enumerate(items)))
    found = compare(job, earlier, later, FEW)
    assert found.targets is not None
    assert found.targets.rounds == 5
    assert {each.structure: each.whole for each in found.near} == {"Liver": True, "Wall": False}
    assert "Wall: Dice between the runs" in {check.what for check in found.verdict.checks if check.met is False}


NAN = float("nan")


@pytest.mark.parametrize("which", ["both empty", "no later rows", "no earlier rows", "all failed", "other items"])
def test_nothing_compared_is_no_verdict(tmp_path: Path, items: list[Item], which: str) -> None:
    job, earlier = job_of(tmp_path / "job", items)
    later = job.take_up(OTHER, new=True)
    half = {"other items": items[:2]}.get(which, items)
    rows = failed if which == "all failed" else _equal
    if which not in {"both empty", "no earlier rows"}:
        keep(earlier, *(rows(item, earlier) for item in half))
    if which not in {"both empty", "no later rows"}:
        keep(later, *(rows(item, later) for item in (items[2:] if which == "other items" else items)))
    nothing_needed = Tolerances(least_rounds=0, least_images=0, most_missing=1)
    found = compare(job, earlier, later, nothing_needed)
    assert found.verdict.result == "no verdict"
    assert any("mediround annotate run" in check.found for check in found.verdict.checks)


def _equal(item: Item, run: Run) -> list[Row]:
    return answered(item, run, (disc(5), disc(3)), 0.8)


def test_a_later_run_that_is_not_finished_gets_no_verdict(tmp_path: Path, items: list[Item]) -> None:
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(_equal(item, later) for item in items[1:]))
    found = compare(job, earlier, later, FEW)
    assert (found.items, found.missing, found.verdict.result) == (3, 1, "no verdict")
    assert compare(job, earlier, later, replace(FEW, most_missing=0.25)).verdict.result == "within tolerances"
    write_manifest(job.manifest, items[1:])  # planned no more
    assert compare(job, earlier, later, FEW).missing == 0


def test_runs_of_two_jobs_are_compared_where_they_have_items_in_common(tmp_path: Path, items: list[Item]) -> None:
    job, earlier = job_of(tmp_path / "before", items[:3])
    keep(earlier, *(_equal(item, earlier) for item in items[:3]))
    job, later = job_of(tmp_path / "after", items[1:], OTHER)
    keep(later, *(_equal(item, later) for item in items[1:]))
    found = compare(job, earlier, later, replace(FEW, least_rounds=2))
    counts = found.items, found.only_later, found.missing
    assert (*counts, found.verdict.result) == (2, 1, 0, "within tolerances")


def test_a_single_item_is_too_little(tmp_path: Path, items: list[Item]) -> None:
    job, earlier, later = two_runs(tmp_path, items[:1])
    keep(later, _equal(items[0], later))
    assert compare(job, earlier, later, Tolerances()).verdict.result == "no verdict"
    assert compare(job, earlier, later, replace(FEW, least_rounds=1)).verdict.result == "within tolerances"


@pytest.mark.parametrize(
    ("scores", "result"),
    [((NAN, NAN), "within tolerances"), ((0.8, NAN), "no verdict"), ((0.8, 0.7), "beyond tolerances")],
)
def test_scores_that_are_none(
    tmp_path: Path, items: list[Item], scores: tuple[float, float], result: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job, earlier = job_of(tmp_path / "job", items)
    later = job.take_up(OTHER, new=True)
    for run, score in zip((earlier, later), scores, strict=True):
        keep(run, *(answered(item, run, (disc(5), disc(3)), score) for item in items))
    assert compare(job, earlier, later, FEW).verdict.result == result
    main(["annotate", "compare", "--job", str(job.folder), "--json"])
    assert "NaN" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("then", "now", "missed"),
    [
        (disc(3), None, "masks in one run alone"),
        (None, disc(3), "masks in one run alone"),
        (None, None, ""),
        (disc(3), disc(6, side=32), "masks in one run alone"),
        (disc(0), disc(3), "summed area, change"),
    ],
)
def test_a_structure_that_one_run_alone_finds(
    tmp_path: Path, items: list[Item], then: Bits | None, now: Bits | None, missed: str
) -> None:
    job, earlier = job_of(tmp_path / "job", items)
    later = job.take_up(OTHER, new=True)
    for run, mask in ((earlier, then), (later, now)):
        keep(run, *(answered(item, run, (disc(5), mask)) for item in items))
    verdict = compare(job, earlier, later, FEW).verdict
    assert verdict.result == ("beyond tolerances" if missed else "within tolerances")
    assert not missed or f"Wall: {missed}" in {check.what for check in verdict.checks if check.met is False}


def test_more_structures_than_a_page_has_room_for_are_one(
    tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "_MOST_STRUCTURES", 1)
    job, earlier, later = two_runs(tmp_path, items)
    keep(later, *(_equal(item, later) for item in items))
    names = [each.structure for each in compare(job, earlier, later, FEW).structures]
    assert names == ["Liver", comparing.OTHERS]


def test_the_interval_is_of_images_and_not_of_rounds() -> None:
    generator = np.random.default_rng(1)
    effects = generator.normal(0.02, 0.1, 200)
    both = np.stack([effects, effects + 0.5], axis=1)
    once, shifted = intervals(np.ones(200), both)
    assert np.allclose(once, intervals(np.full(200, 50.0), both * 50)[0])
    assert np.allclose(np.add(once, 0.5), shifted)
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
    assert main([*place, "--earlier", later.key[:8]]) == 2
    assert "name another run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*place, "--least-dice", "nan"])
    job_of(tmp_path / "alone", items)
    assert main(["annotate", "compare", "--job", str(tmp_path / "alone")]) == 2
    assert "--new-run" in capsys.readouterr().err


def test_the_options_are_the_tolerances() -> None:
    options = {name.replace("-", "_"): default for name, default, _ in _annotate_entry.TOLERANCES}
    assert options == {each.name: each.default for each in fields(Tolerances)}
