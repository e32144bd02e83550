"""The comparison's page: verdict, plots, agreement of each structure, and the biggest disagreements side by side.

Knows which figures are shown. Does not know how they were come by, or files.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediround.annotate.compare.agreement import MOST_GROWTH, Agreement
from mediround.annotate.compare.comparing import Comparison
from mediround.annotate.compare.pairs import Pair
from mediround.annotate.compare.targets import Nearness
from mediround.annotate.compare.verdict import Tolerances, Verdict
from mediround.annotate.report.pages import NOTE, Structures, links, notes, page, rounded, sheet, table
from mediround.annotate.report.plots import Bar, around_zero, plot

_KINDS = {"both": 0, "earlier_only": 1, "later_only": 2, "other_size": 3, "empty": 0}
"""Rounds that are empty in both runs do not disagree, so that none is listed, but while a run is at work."""
_MOST_STRUCTURES, _MOST_BARS = 200, 20
"""In tables and in plots, the least Dice first."""
_MET = {True: "met", False: "missed", None: "not known"}
_LEFT_OUT = "Rounds with nothing in either run are in no figure at their right. Agreement is no accuracy."
_AGREEMENT = (
    *(
        "structure",
        "rounds",
        "nothing in either",
        "masks in both",
        "Dice",
        "5 % below",
        "identical",
        "earlier alone",
        "later alone",
    ),
    *("other size", "score, change", "area, change"),
)


@dataclass(slots=True)
class Rounds:
    """The page's data of rounds, gathered one by one."""

    structures: Structures = field(default_factory=Structures)
    entries: list[list[Any]] = field(default_factory=list)

    def add(self, pair: Pair, number: int | None, *, picture: bool) -> None:
        """``number``: of the page of details that has its item; None: none."""
        one, other = pair.earlier, pair.later
        kind = _KINDS[pair.kind]
        dice = rounded(pair.dice() or 0.0, 4)
        scores = rounded(one.score, 3), rounded(other.score, 3)
        label = self.structures.number(pair.label)
        values = [pair.item_id, number, pair.round, label, dice, kind, *scores, one.area, other.area, int(picture)]
        self.entries.append(values)


def comparison_page(
    title: str, found: Comparison, tolerances: Tolerances, rounds: Rounds, models: Mapping[str, str], *, job: str
) -> str:
    """The page.

    Args:
        models: of the earlier and the later run, in words.
        job: name of the later run's.
    """
    shown = f"{len(rounds.entries)} rounds, those that disagree most; the earlier run's mask at the left"
    of = {"job": job, "run_key": found.later}
    data = {**of, "structures": rounds.structures.names, "rounds": rounds.entries}
    body, script = sheet(data, {"least-apart": "disagreement at least"}, "comparison.js")
    parts = [
        notes([NOTE]),
        links({"index.html": "contact sheet"}),
        table(("", "run"), list(models.items())),
        _verdict(found.verdict),
        table(("items", ""), _items(found)),
        _plots(found, tolerances),
        notes(_of_plots(found)),
        "<h2>Agreement of the two runs</h2>",
        table(_AGREEMENT, [_cells(each) for each in (found.overall, *found.structures[:_MOST_STRUCTURES])]),
        notes([f"{len(found.structures)} structures, the least Dice first. {_LEFT_OUT}"]),
        "<h2>Disagreements</h2>",
        notes([shown]),
        body,
    ]
    return page(title, "".join(parts), script)


def _verdict(verdict: Verdict) -> str:
    kind = verdict.result.split(" ", maxsplit=1)[0]
    checks = sorted(verdict.checks, key=lambda check: (check.met is not False, check.met is not None))
    shown = [(check.what, check.found, check.limit, _MET[check.met]) for check in checks[: 4 * _MOST_STRUCTURES]]
    head = f'<h2 class="verdict {kind}">Verdict: {html.escape(verdict.result)}</h2>'
    return head + table(("what", "found", "tolerance", ""), shown)


def _items(found: Comparison) -> list[tuple[str, object]]:
    return [
        ("planned", found.planned),
        ("in both runs", found.items),
        ("in the earlier run alone", found.only_earlier),
        ("in the later run alone", found.only_later),
        ("planned, and not in the later run", found.missing),
        ("left out: not in the manifest (any more)", found.not_planned),
        ("failed in the earlier run alone", found.failed_earlier),
        ("failed in the later run alone", found.failed_later),
    ]


def _cells(each: Agreement) -> tuple[object, ...]:
    alone = each.earlier_only, each.later_only, each.other_size
    return (
        each.structure or "all",
        each.rounds,
        each.empty,
        each.both,
        _number(each.dice),
        _number(each.dice_quantiles.get("0.05")),
        _number(each.identical),
        *alone,
        "" if each.score_change is None else f"{each.score_change:+.4f}",
        "from no pixel" if each.area_change is None else f"{each.area_change:+.2%}",
    )


def _plots(found: Comparison, tolerances: Tolerances) -> str:
    shown = [each for each in found.structures if each.both][:_MOST_BARS]
    drift = [_score(each, tolerances) for each in shown if each.score_change is not None]
    growth = [_area(each, tolerances) for each in shown if each.area_change is not None]
    loss, change = tolerances.most_score_loss, tolerances.most_area_change
    near = [] if found.targets is None else _targets(found.targets, found.near, tolerances)
    parts = [
        *near,
        plot(
            "Score, later minus earlier: mean, and from 5 to 95 % of rounds",
            drift,
            around_zero(drift, 2 * loss),
            (-loss, 0.0),
            "+.3f",
        ),
        plot(
            "Area, change: of the sum, and from 5 to 95 % of rounds",
            growth,
            around_zero(growth, 2 * change),
            (-change, 0.0, change),
            "+.1%",
        ),
    ]
    return f'<div class="plots">{"".join(parts)}</div>'


def _of_plots(found: Comparison) -> list[str]:
    """What they do not show."""
    count = len(found.structures)
    if count <= _MOST_BARS:
        return []
    which = f"the {_MOST_BARS} whose Dice between the runs is least, and with targets those that lost most"
    return [f"Of {count} structures, plots show {which}."]


def _targets(near: Nearness, each_of: Sequence[Nearness], tolerances: Tolerances) -> list[str]:
    """Dice of both runs with the targets, and its change, of all and of each structure; 95 % intervals."""
    both = [
        Bar("earlier run", near.earlier, *near.earlier_interval),
        Bar("later run", near.later, *near.later_interval),
    ]
    least = min(bar.low for bar in both)
    limit = -tolerances.most_dice_loss
    change = [Bar("all", near.change, near.low, near.high, near.change < limit)]
    change += [
        Bar(each.structure, each.change, each.low, each.high, each.change < limit) for each in each_of[:_MOST_BARS]
    ]
    of = f"{near.images} images, {near.rounds - near.empty} rounds"
    return [
        plot(f"Dice with the targets, 95 % interval; {of}", both, (max(0.0, least - 0.05), 1.0), (), ".4f"),
        plot(
            "Its change, later minus earlier, 95 % interval",
            change,
            around_zero(change, -2 * limit),
            (limit, 0.0),
            "+.4f",
        ),
    ]


def _score(each: Agreement, tolerances: Tolerances) -> Bar:
    value, quantiles = each.score_change or 0.0, each.score_quantiles
    missed = value < -tolerances.most_score_loss
    return Bar(each.structure, value, quantiles["0.05"], quantiles["0.95"], missed)


def _area(each: Agreement, tolerances: Tolerances) -> Bar:
    value, quantiles = each.area_change or 0.0, each.area_quantiles
    missed = abs(value) > tolerances.most_area_change
    return Bar(each.structure, min(value, MOST_GROWTH), quantiles["0.05"], quantiles["0.95"], missed)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
