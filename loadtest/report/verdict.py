"""Whether the objective was met, and whether the run can tell.

Knows what a scenario wants and what was found. Does not know how either was come by.
"""

from __future__ import annotations

import numpy as np

from loadtest.report.model import Check, GeneratorFigures, Verdict
from loadtest.report.statistics import Rows, answered, from_due, given_up, of_group
from loadtest.scenario import LatencyObjective, Scenario


def judged(rows: Rows, scenario: Scenario, generator: GeneratorFigures, *, target_gone: bool) -> Verdict:
    """``rows``: the rounds that were due in the time measured."""
    wanted = rows[~given_up(rows)]
    checks = [_answered(wanted, scenario.objective.answered)]
    checks += [_within(wanted, limit) for limit in scenario.objective.latency]
    if target_gone:
        checks.append(Check(what="target", wanted="within reach", found="gone; the rest not asked", met=False))
    reasons = _invalid(wanted, scenario, generator)
    met = all(check.met for check in checks)
    return Verdict(
        result="invalid" if reasons else "met" if met else "missed", checks=tuple(checks), reasons=tuple(reasons)
    )


def _answered(rows: Rows, least: float) -> Check:
    share = float(answered(rows).mean()) if len(rows) else 0.0
    return Check(what="answered", wanted=f">= {least:.2%}", found=f"{share:.2%}", met=share >= least)


def _within(rows: Rows, limit: LatencyObjective) -> Check:
    """Of the rounds that were due: one that was not answered was not answered in time either."""
    chosen = rows[of_group(rows, limit.rounds)]
    in_time = answered(chosen) & (from_due(chosen) <= limit.within)
    share = float(np.mean(in_time)) if len(chosen) else 0.0
    return Check(
        what=f"{limit.rounds} rounds within {limit.within:g} s",
        wanted=f">= {limit.share:.2%}",
        found=f"{share:.2%}" if len(chosen) else "no such round was due",
        met=bool(len(chosen)) and share >= limit.share,
    )


def _invalid(rows: Rows, scenario: Scenario, generator: GeneratorFigures) -> list[str]:
    limit, reasons = scenario.generator.late, []
    for what, seconds in (("requests were sent", generator.late_sends), ("loop woke", generator.late_wakes)):
        if seconds > limit:
            reasons.append(
                f"the load test's own {what} late: 99th percentile {seconds:.3f} s, allowed {limit:.3f} s; "
                "run it on another machine, or at a lower rate"
            )
    if generator.dropped:
        reasons.append(f"{generator.dropped} dialogues were not sent: generator.max_open were under way")
    if not len(rows):
        reasons.append("no round was due in the time measured")
    return reasons
