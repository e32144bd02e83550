"""Two reports of one scenario beside each other: is the second worse?

Knows reports and when a difference counts: it exceeds the tolerance, and chance does not explain it. Does not
know where reports lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from loadtest.report.model import Percentile, Report, RoundFigures
from loadtest.report.tables import Table

_PERCENTS = (50.0, 95.0, 99.0)
_Z = 1.96


class NotComparable(Exception):
    """The reports are of different scenarios, or one is invalid; the message says which."""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of both reports."""

    what: str
    before: float
    after: float
    verdict: str
    """``worse``, ``better`` or "" where the difference does not count."""

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else math.nan


def compare(before: Report, after: Report, tolerance: float, *, different: bool = False) -> list[Line]:
    """``tolerance``: share by which a latency may rise, or a share of rounds fall, without counting.

    Raises:
        NotComparable: the scenarios differ and ``different`` is False, or a run is invalid.
    """
    if before.scenario_digest != after.scenario_digest and not different:
        raise NotComparable("the reports are of different scenarios; --different compares them all the same")
    for name, report in (("A", before), ("B", after)):
        if report.verdict.result == "invalid":
            raise NotComparable(f"{name} is invalid: {'; '.join(report.verdict.reasons)}")
    lines = [
        _share(
            "answered",
            (before.overall.answered, _wanted(before)),
            (after.overall.answered, _wanted(after)),
            tolerance,
        ),
        _share("in time", (before.overall.good, _wanted(before)), (after.overall.good, _wanted(after)), tolerance),
    ]
    later = {found.name: found for found in after.rounds}
    for found in before.rounds:
        if found.name in later:
            lines += _latencies(found, later[found.name], tolerance)
    return lines


def table(lines: list[Line]) -> Table:
    rows = [[ln.what, f"{ln.before:.4g}", f"{ln.after:.4g}", f"{ln.ratio:.2f}x", ln.verdict] for ln in lines]
    return Table(["", "A", "B", "B / A", ""], rows)


def _wanted(report: Report) -> int:
    return report.overall.due - report.overall.given_up


def _latencies(before: RoundFigures, after: RoundFigures, tolerance: float) -> list[Line]:
    if not (before.from_due and after.from_due):
        return []
    pairs = zip(before.from_due.percentiles, after.from_due.percentiles, strict=True)
    name = "all rounds" if before.name == "all" else f"round {before.name}"
    return [_latency(f"{name}, p{a.percent:g} s", a, b, tolerance) for a, b in pairs if a.percent in _PERCENTS]


def _latency(what: str, before: Percentile, after: Percentile, tolerance: float) -> Line:
    """The intervals of confidence must lie apart."""
    verdict = ""
    if after.seconds > before.seconds * (1 + tolerance) and after.low > before.high:
        verdict = "worse"
    elif after.seconds < before.seconds / (1 + tolerance) and after.high < before.low:
        verdict = "better"
    return Line(what, before.seconds, after.seconds, verdict)


def _share(what: str, before: tuple[int, int], after: tuple[int, int], tolerance: float) -> Line:
    """Of (part, whole): by the difference of two shares."""
    a, b = (part / whole if whole else 0.0 for part, whole in (before, after))
    spread = _Z * math.sqrt(sum(s * (1 - s) / max(1, n) for s, (_, n) in ((a, before), (b, after))))
    verdict = ""
    if a - b > max(spread, tolerance * a):
        verdict = "worse"
    elif b - a > max(spread, tolerance * a):
        verdict = "better"
    return Line(f"share {what}", a, b, verdict)
