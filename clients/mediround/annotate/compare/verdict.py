"""Whether a later run may take an earlier one's place, by tolerances that a site states.

Of a structure all of whose rounds have targets, nearness to them decides; of others, agreement does. Too little
data is no verdict, and so is nothing compared. Knows figures. Does not know how they were come by.
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
        most_one_sided: share of a structure's rounds with a mask in one run alone, of those in which either draws
            something.
        most_score_loss: by which a structure's mean score may fall.
        most_area_change: of a structure's summed areas, as a share, either way.
        most_failed: share of items that fail in the later run and not in the earlier one.
        most_missing: share of the planned items that the later run may lack, for anything to be said.
        most_dice_loss: by which mean Dice with targets may fall, of all and of each structure. Where the lower end
            of the change's interval lies below it, and the mean does not, nothing is said.
        least_rounds: of a structure with masks in both runs, not both empty, below which nothing is said.
        least_images: with targets, of all and of a structure, below which nothing is said by them; an image counts
            where one of target and masks is not empty.
    """

    least_dice: float = 0.95
    most_one_sided: float = 0.01
    most_score_loss: float = 0.02
    most_area_change: float = 0.05
    most_failed: float = 0.001
    most_missing: float = 0.0
    most_dice_loss: float = 0.01
    least_rounds: int = 30
    least_images: int = 30


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict is by.

    Attributes:
        structures: how far the runs agree on each.
        overall: how near they come to targets; None: no target was read.
        near: the same, of each structure that has targets.
        unreadable: targets that could not be read, or are of another size than the masks.
        planned: items of the manifest.
        items: of them, in both runs.
        missing: of them, not in the later run.
        newly_failed: items that fail in the later run alone.
    """

    structures: Sequence[Agreement]
    overall: Nearness | None
    near: Sequence[Nearness]
    unreadable: int
    planned: int
    items: int
    missing: int
    newly_failed: int


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


def judged(found: Evidence, tolerances: Tolerances) -> Verdict:
    """The verdict, and each tolerance with what was found."""
    checks = [*_complete(found, tolerances)]
    if found.overall is not None:
        checks.append(_near("all", found.overall, tolerances))
    aimed_at = {each.structure: each for each in found.near if each.whole}
    checks += [_near(name, each, tolerances) for name, each in aimed_at.items()]
    if found.unreadable:
        share = f"{found.unreadable} could not be, or are of another size than the masks"
        checks.append(Check("targets that can be read", "all", share, None))
    for each in found.structures:
        if each.structure not in aimed_at:
            checks += _agrees(each, tolerances)
    if not found.structures:
        words = "0: `mediround annotate run` must finish the same items with both models"
        checks.append(Check("rounds in both runs", ">= 1", words, None))
    if any(check.met is False for check in checks):
        return Verdict("beyond tolerances", tuple(checks))
    unknown = any(check.met is None for check in checks)
    return Verdict("no verdict" if unknown else "within tolerances", tuple(checks))


def _complete(found: Evidence, tolerances: Tolerances) -> list[Check]:
    """Whether the later run has what is planned, and a result where the earlier one has."""
    limit = tolerances.most_failed
    share = found.newly_failed / found.items if found.items else 0.0
    failed = Check(
        "items that fail now", f"<= {limit:.2%}", f"{share:.2%}", share <= limit if found.items else None
    )
    share = found.missing / found.planned if found.planned else 0.0
    few = Check(
        "planned items that the later run has not",
        f"<= {tolerances.most_missing:.2%}",
        f"{share:.2%}" + (": finish it first" if found.missing else ""),
        True if share <= tolerances.most_missing else None,
    )
    return [failed, few]


def _near(name: str, near: Nearness, tolerances: Tolerances) -> Check:
    """The mean decides, unless there are too few images to tell it by."""
    limit = -tolerances.most_dice_loss
    what = f"{name}: Dice with targets, change", f">= {limit:+.4f}"
    if near.images < tolerances.least_images:
        return Check(*what, _few(near, tolerances), None)
    found = f"{near.change:+.4f} ({near.low:+.4f} to {near.high:+.4f})"
    if near.change < limit:
        return Check(*what, found, False)
    if near.low < limit:
        return Check(*what, f"{found}: more images are needed to tell", None)
    return Check(*what, found, True)


def _few(near: Nearness, tolerances: Tolerances) -> str:
    return f"{near.images} images where target or masks are not empty, of {tolerances.least_images:g} needed"


def _agrees(each: Agreement, tolerances: Tolerances) -> list[Check]:
    name, least = each.structure, tolerances.least_rounds
    nowhere = not each.drawn and each.rounds >= least
    enough = nowhere or each.drawn >= least
    one_sided = Check(
        f"{name}: masks in one run alone",
        f"<= {tolerances.most_one_sided:.2%}",
        f"{each.one_sided:.2%}",
        each.one_sided <= tolerances.most_one_sided if enough else None,
    )
    if nowhere:
        return [one_sided]  # that can be agreed on
    dice = f"{name}: Dice between the runs", f">= {tolerances.least_dice:g}"
    if each.both < least or each.dice is None:
        words = f"{each.both} rounds with masks in both, not both empty, of {least:g} needed"
        return [Check(*dice, words, None), one_sided]
    return [
        Check(*dice, f"{each.dice:.4f}", each.dice >= tolerances.least_dice),
        one_sided,
        *_score(each, tolerances),
        _area(each, tolerances),
    ]


def _score(each: Agreement, tolerances: Tolerances) -> list[Check]:
    """None where neither run has scores."""
    if not each.scored and not each.scored_alone:
        return []
    words, limit = f"{each.structure}: mean score, change", f">= {-tolerances.most_score_loss:+.3f}"
    if each.scored < tolerances.least_rounds or each.score_change is None:
        few = f"{each.scored} rounds with scores in both, of {tolerances.least_rounds:g} needed"
        return [Check(words, limit, few, None)]
    return [Check(words, limit, f"{each.score_change:+.4f}", each.score_change >= -tolerances.most_score_loss)]


def _area(each: Agreement, tolerances: Tolerances) -> Check:
    limit, change = tolerances.most_area_change, each.area_change
    words = "from no pixel" if change is None else f"{change:+.2%}"
    met = change is not None and abs(change) <= limit
    return Check(f"{each.structure}: summed area, change", f"within {limit:.1%}", words, met)
