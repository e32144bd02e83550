"""What a comparison's verdict is by: the mean with targets and its interval, and items that are planned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround.__main__ import main
from mediround.annotate.compare.agreement import Agreement
from mediround.annotate.compare.comparing import compare
from mediround.annotate.compare.targets import Nearness
from mediround.annotate.compare.verdict import Evidence, Tolerances, judged
from mediround.annotate.manifest import write_manifest
from tests.unit.client.annotate.jobs import OTHER, QUESTIONS, answered, disc, job_of, keep, picture, png

AGREED = Agreement("Liver", 40, 40, 0, 0, 0, 1.0, {}, 1.0, 0, 0, None, {}, 0.0, {})
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
    near = Nearness("", 40, images, False, 0.8, 0.8 + mean, *interval, (0.7, 0.9), (0.7, 0.9))
    one = replace(near, structure="Liver", whole=True)
    chosen = (near, ()) if of == "all" else (None, (one,))
    verdict = judged(Evidence([AGREED], *chosen, unreadable=0, items=40, missing=0, newly_failed=0), Tolerances())
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
