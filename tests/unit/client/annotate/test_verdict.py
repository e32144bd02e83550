"""What a comparison's verdict is by: the mean with targets and its interval, items that are planned, and rounds in
which something is drawn.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround.__main__ import main
from mediround.annotate.compare.agreement import Agreement
from mediround.annotate.compare.comparing import compare
from mediround.annotate.compare.targets import Nearness
from mediround.annotate.compare.verdict import Evidence, Tolerances, judged
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.manifest import write_manifest
from mediround.annotate.rows import Row
from mediround.masks import Bits
from tests.unit.client.annotate.jobs import OTHER, QUESTIONS, answered, disc, job_of, keep, picture, png

AGREED = Agreement("Liver", 40, 0, 40, 0, 0, 0, 1.0, {}, 1.0, 0, 0, None, {}, 0.0, {})
FEW = Tolerances(least_rounds=3, least_images=3)
HERE, THERE, NOTHING = disc(3, centre=10), disc(3, centre=4), disc(0)
SHOWN, SLICES = 4, 40
"""Of a rare structure: slices that show it, and all."""
WITHIN, BEYOND, NONE = "within tolerances", "beyond tolerances", "no verdict"


@pytest.mark.parametrize("of", ["all", "Liver"])
@pytest.mark.parametrize(
    ("change", "images", "result"),
    [
        ((0.005, -0.015, 0.02), 40, NONE),
        ((-0.009, -0.02, 0.002), 40, NONE),
        ((-0.02, -0.03, -0.012), 40, BEYOND),
        ((-0.011, -0.03, 0.01), 40, BEYOND),
        ((0.0, -0.009, 0.009), 40, WITHIN),
        ((-0.02, -0.03, -0.012), 29, NONE),
    ],
)
def test_the_mean_with_targets_decides_unless_its_images_are_too_few(
    of: str, change: tuple[float, float, float], images: int, result: str
) -> None:
    mean, *interval = change
    near = Nearness("", 40, 0, images, False, 0.8, 0.8 + mean, *interval, (0.7, 0.9), (0.7, 0.9))
    one = replace(near, structure="Liver", whole=True)
    chosen = (near, ()) if of == "all" else (None, (one,))
    evidence = Evidence([AGREED], *chosen, unreadable=0, planned=40, items=40, missing=0, newly_failed=0)
    verdict = judged(evidence, Tolerances())
    assert verdict.result == result
    [check] = [check for check in verdict.checks if check.what == f"{of}: Dice with targets, change"]
    assert check.met is {WITHIN: True, BEYOND: False, NONE: None}[result]
    assert ("more images" in check.found) is (result == NONE and images == 40)


def test_items_that_are_planned_no_more_do_not_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is withdrawn has no target any more, and its masks differ most."""
    (tmp_path / "truth.png").write_bytes(png(disc(5).astype(np.uint8) * 255))
    questions = (replace(QUESTIONS[0], truth=(tmp_path / "truth.png").as_uri()),)
    items = [picture(tmp_path / "images", number, questions) for number in range(6)]
    job, earlier = job_of(tmp_path / "job", items)
    keep(earlier, *(answered(item, earlier, (disc(5),)) for item in items[:5]))
    later = job.take_up(OTHER, new=True)
    keep(later, *(answered(item, later, (disc(1 if n == 0 else 5),)) for n, item in enumerate(items) if n != 4))
    words = ["annotate", "compare", "--job", str(job.folder), "--least-images", "3", "--least-rounds", "3"]
    assert main(words) == 3
    assert "in the manifest" not in capsys.readouterr().out
    write_manifest(job.manifest, items[1:4])
    found = compare(job, earlier, later, Tolerances(least_rounds=3, least_images=3))
    assert (found.verdict.result, found.items, found.not_planned) == (WITHIN, 3, 3)
    assert (found.only_later, found.missing, found.disagreements) == (0, 0, ())
    assert [(each.structure, each.whole) for each in found.near] == [("Liver", True)]
    assert main(words) == 0
    assert "3 items are not in the manifest" in capsys.readouterr().out


def test_a_verdict_is_on_what_is_planned_and_not_on_what_both_runs_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [picture(tmp_path / "images", number) for number in range(10)]
    job, earlier = job_of(tmp_path / "job", items)
    later = job.take_up(OTHER, new=True)
    for run, last in ((earlier, 4), (later, 3)):
        keep(run, *(answered(item, run, (disc(5), disc(3))) for item in items[:last]))
    found = compare(job, earlier, later, FEW)
    assert (found.planned, found.items, found.only_earlier, found.missing) == (10, 3, 1, 7)
    assert found.verdict.result == NONE
    assert compare(job, earlier, later, replace(FEW, most_missing=0.7)).verdict.result == WITHIN
    assert main(["annotate", "compare", "--job", str(job.folder), "--least-rounds", "3"]) == 3
    printed = capsys.readouterr().out
    assert "3 of 10 planned, in both" in printed
    assert "7 planned items are not in the later run" in printed


def rare(
    folder: Path, then: list[Bits | None], now: list[Bits | None], truths: bool = False
) -> tuple[Job, Run, Run]:
    """A job of slices; in those after the first few the structure is not, and a run has there what it has last."""
    for name, mask in (("here", HERE), ("nothing", NOTHING)):
        (folder / f"{name}.png").write_bytes(png(mask.astype(np.uint8) * 255))
    items = []
    for number in range(SLICES):
        truth = folder / ("here.png" if number < SHOWN else "nothing.png")
        question = replace(QUESTIONS[0], truth=truth.as_uri() if truths else "")
        items.append(picture(folder / "images", number, (question,)))
    job, earlier = job_of(folder / "job", items)
    later = job.take_up(OTHER, new=True)
    for run, masks in ((earlier, then), (later, now)):
        keep(run, *(_of(item, run, masks[min(number, len(masks) - 1)]) for number, item in enumerate(items)))
    return job, earlier, later


def _of(item: Item, run: Run, mask: Bits | None) -> list[Row]:
    return answered(item, run, (mask,), 0.9 if mask is None or not mask.any() else 0.5)


@pytest.mark.parametrize("absent", [None, NOTHING])
def test_a_rare_structure_is_judged_by_the_rounds_that_have_it(
    tmp_path: Path, absent: Bits | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a run says that there is nothing, or draws an empty mask."""
    job, earlier, later = rare(tmp_path, [HERE] * SHOWN + [absent], [THERE] * SHOWN + [NOTHING])
    found = compare(job, earlier, later, FEW)
    [liver] = found.structures
    assert (liver.rounds, liver.empty, liver.both, liver.dice, liver.identical) == (40, 36, 4, 0.0, 0.0)
    assert (liver.scored, liver.one_sided, found.verdict.result) == (4, 0.0, BEYOND)
    assert len(found.disagreements) == SHOWN
    assert compare(job, earlier, later, Tolerances()).verdict.result == NONE, "4 rounds are too few"
    assert main(["annotate", "compare", "--job", str(job.folder)]) == 3
    assert "Liver: 40 rounds (36 of them empty), Dice 0.0000" in capsys.readouterr().out


def test_masks_of_one_run_alone_are_a_share_of_the_rounds_that_have_any(tmp_path: Path) -> None:
    job, earlier, later = rare(tmp_path, [HERE] * SHOWN + [None], [HERE] * (SHOWN - 1) + [None])
    found = compare(job, earlier, later, replace(FEW, most_area_change=1.0, most_one_sided=0.2))
    assert (found.structures[0].one_sided, found.structures[0].dice) == (0.25, 1.0)
    assert {check.what for check in found.verdict.checks if check.met is False} == {
        "Liver: masks in one run alone"
    }


def test_a_structure_that_neither_run_finds_is_agreed_on_once_rounds_are_enough(tmp_path: Path) -> None:
    job, earlier, later = rare(tmp_path, [None], [NOTHING])
    found = compare(job, earlier, later, Tolerances())
    assert (found.structures[0].empty, found.structures[0].dice, found.verdict.result) == (SLICES, None, WITHIN)
    assert compare(job, earlier, later, Tolerances(least_rounds=SLICES + 1)).verdict.result == NONE


def test_targets_of_a_rare_structure_count_where_they_or_a_mask_have_something(tmp_path: Path) -> None:
    job, earlier, later = rare(tmp_path, [HERE] * SHOWN + [NOTHING], [disc(2, centre=10)] * SHOWN + [None], True)
    found = compare(job, earlier, later, FEW)
    small = 2 * disc(2, centre=10).sum() / (disc(2, centre=10).sum() + HERE.sum())
    for near in (found.targets, *found.near):
        assert near is not None
        assert (near.rounds, near.empty, near.images, near.earlier) == (SLICES, SLICES - SHOWN, SHOWN, 1.0)
        assert near.later == pytest.approx(small)
    assert (found.near[0].whole, found.verdict.result) == (True, BEYOND)
    assert compare(job, earlier, later, Tolerances()).verdict.result == NONE, "4 images are too few"


def test_a_mask_where_there_must_be_none_has_no_dice_with_its_target(tmp_path: Path) -> None:
    job, earlier, later = rare(tmp_path, [HERE] * SHOWN + [None], [HERE] * (SHOWN + 1) + [None], True)
    [near] = compare(job, earlier, later, FEW).near
    assert (near.rounds, near.empty, near.images) == (SLICES, SLICES - SHOWN - 1, SHOWN + 1)
    assert (near.earlier, near.later) == (1.0, pytest.approx(SHOWN / (SHOWN + 1)))


def test_targets_that_are_all_empty_are_judged_by_agreement(tmp_path: Path) -> None:
    job, earlier, later = rare(tmp_path, [None], [NOTHING], True)
    (tmp_path / "here.png").write_bytes((tmp_path / "nothing.png").read_bytes())
    found = compare(job, earlier, later, Tolerances())
    assert (found.targets, found.near, found.verdict.result) == (None, (), WITHIN)
