"""Whether a later run may take an earlier one's place, by tolerances that a site states.

Where targets exist, nearness to them decides; else agreement does. Too little data is no verdict. Knows figures.
Does not know how they were come by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mediround.annotate.compare.agreement import Agreement
from mediround.annotate.compare.targets import Nearness


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What a change may do.

    Attributes:
        least_dice: mean Dice between the runs, of each structure.
        most_one_sided: share of a structure's rounds with a mask in one run alone.
        most_score_loss: by which a structure's mean score may fall.
        most_area_change: of a structure's summed areas, as a share, either way.
        most_failed: share of items that fail in the later run and not in the earlier one.
        most_dice_loss: by which Dice with targets may fall, at the interval's lower end.
        least_rounds: of a structure with masks in both runs, below which nothing is said.
        least_images: with targets, below which nothing is said by them.
    """

    least_dice: float = 0.95
    most_one_sided: float = 0.01
    most_score_loss: float = 0.02
    most_area_change: float = 0.05
    most_failed: float = 0.001
    most_dice_loss: float = 0.01
    least_rounds: int = 30
    least_images: int = 30


@dataclass(frozen=True, slots=True)
class Check:
    """One tolerance; ``met`` None: there is too little data."""

    what: str
    limit: str
    found: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``result`` and why."""

    result: Literal["within tolerances", "beyond tolerances", "no verdict"]
    checks: tuple[Check, ...]


def judged(
    structures: Sequence[Agreement], near: Nearness | None, newly_failed: float, tolerances: Tolerances
) -> Verdict:
    """``newly_failed``: share of items."""
    limit = tolerances.most_failed
    checks = [Check("items that fail now", f"<= {limit:.2%}", f"{newly_failed:.2%}", newly_failed <= limit)]
    if near is not None:
        checks.append(_near(near, tolerances))
    else:
        checks += [check for each in structures for check in _agrees(each, tolerances)]
    if not structures:
        checks.append(Check("rounds in both runs", ">= 1", "0", None))
    if any(check.met is False for check in checks):
        return Verdict("beyond tolerances", tuple(checks))
    unknown = any(check.met is None for check in checks)
    return Verdict("no verdict" if unknown else "within tolerances", tuple(checks))


def _near(near: Nearness, tolerances: Tolerances) -> Check:
    words = "Dice with targets, change, lower end of its 95 % interval"
    enough = near.images >= tolerances.least_images
    limit = f">= {-tolerances.most_dice_loss:+.4f}"
    if not enough:
        return Check(words, limit, f"{near.images} images, of {tolerances.least_images} needed", None)
    return Check(words, limit, f"{near.low:+.4f}", near.low >= -tolerances.most_dice_loss)


def _agrees(each: Agreement, tolerances: Tolerances) -> list[Check]:
    name, dice = each.structure, each.dice
    one_sided = Check(
        f"{name}: masks in one run alone",
        f"<= {tolerances.most_one_sided:.2%}",
        f"{each.one_sided:.2%}",
        each.one_sided <= tolerances.most_one_sided if each.rounds >= tolerances.least_rounds else None,
    )
    if each.both < tolerances.least_rounds or dice is None:
        few = f"{each.both} rounds with masks in both, of {tolerances.least_rounds} needed"
        return [Check(f"{name}: Dice between the runs", f">= {tolerances.least_dice:g}", few, None), one_sided]
    score, area = each.score_change or 0.0, each.area_change or 0.0
    return [
        Check(
            f"{name}: Dice between the runs",
            f">= {tolerances.least_dice:g}",
            f"{dice:.4f}",
            dice >= tolerances.least_dice,
        ),
        one_sided,
        Check(
            f"{name}: mean score, change",
            f">= {-tolerances.most_score_loss:+.3f}",
            f"{score:+.4f}",
            score >= -tolerances.most_score_loss,
        ),
        Check(
            f"{name}: summed area, change",
            f"within {tolerances.most_area_change:.1%}",
            f"{area:+.2%}",
            abs(area) <= tolerances.most_area_change,
        ),
    ]
