"""The knee: the highest rate at which a server keeps the objective, and what it does beyond.

Knows how rates are tried: doubled until the objective breaks, then halved in between; at last a multiple of the
knee. Does not know how a rate is measured.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from loadtest.report.model import Check, Step, Verdict

Measure = Callable[[float], Awaitable[Step]]
"""Puts the server under a rate, in dialogues a second."""


@dataclass(frozen=True, slots=True)
class Search:
    least: float
    """Rate to begin with."""
    most: float
    """Highest rate that may be tried."""
    precision: float = 0.1
    """The knee lies within this share below the lowest rate that broke the objective."""
    most_steps: int = 12


@dataclass(frozen=True, slots=True)
class Found:
    steps: tuple[Step, ...]
    """In the order of the rates."""
    knee: Step | None
    broken: Step | None
    limited: bool
    """A run was invalid: the load test, not the server, set the limit."""


@dataclass(frozen=True, slots=True)
class KneeObjective:
    """Of the run beyond the knee, as shares of what the knee has."""

    goodput: float = 0.8
    """At least."""
    memory: float = 1.5
    """At most: the server's peak resident memory."""


@dataclass(frozen=True, slots=True)
class Beyond:
    """The run at a multiple of the knee, and its shares of what the knee has."""

    step: Step
    goodput: float | None
    memory: float | None
    """None where the server's metrics do not tell."""


def beyond(knee: Step, step: Step) -> Beyond:
    return Beyond(step, _share(step.goodput, knee.goodput), _share(step.peak_bytes, knee.peak_bytes))


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


async def search(measure: Measure, how: Search) -> Found:
    """Try rates until the knee is known well enough, or the load test itself is at its limit."""
    steps: list[Step] = []
    rate: float | None = how.least
    while rate is not None and len(steps) < how.most_steps:
        step = await measure(rate)
        steps.append(step)
        if step.result == "invalid":
            break
        rate = following(steps, how)
    steps.sort(key=lambda step: step.rate)
    limited = any(step.result == "invalid" for step in steps)
    return Found(tuple(steps), _knee(steps), _broken(steps), limited)


def following(steps: Sequence[Step], how: Search) -> float | None:
    """The next rate to try; None: no further one tells more."""
    knee, broken = _knee(steps), _broken(steps)
    if knee is None:
        lowest = min(step.rate for step in steps)
        return lowest / 2 if lowest > how.least / 64 else None
    if broken is None:
        return min(knee.rate * 2, how.most) if knee.rate < how.most else None
    return (knee.rate + broken.rate) / 2 if broken.rate - knee.rate > how.precision * broken.rate else None


def _knee(steps: Sequence[Step]) -> Step | None:
    """The highest rate that was met below every rate that was not: a lucky run above the knee is no knee."""
    broken = _broken(steps)
    below = [s for s in steps if s.result == "met" and (broken is None or s.rate < broken.rate)]
    return max(below, key=lambda step: step.rate, default=None)


def _broken(steps: Sequence[Step]) -> Step | None:
    return min((s for s in steps if s.result == "missed"), key=lambda step: step.rate, default=None)


def verdict(found: Found, overload: Beyond | None, wanted: KneeObjective, *, metrics: bool) -> Verdict:
    """Whether there is a knee, and whether beyond it the server holds its goodput and its memory is bounded.

    ``metrics``: whether the server's were asked for.
    """
    knee = found.knee
    checks = [
        Check(
            what="knee",
            wanted="the objective is met at some rate and missed at another",
            found=f"{knee.rate:g} dialogues a second" if knee else "missed at every rate tried",
            met=knee is not None and found.broken is not None,
        )
    ]
    if overload and overload.goodput is not None:
        checks.append(
            Check(
                what="goodput under overload",
                wanted=f">= {wanted.goodput:.0%} of the knee's",
                found=f"{overload.goodput:.0%}",
                met=overload.goodput >= wanted.goodput,
            )
        )
    if overload:
        checks.append(_memory(overload.memory, wanted.memory, metrics=metrics))
    reasons = []
    if found.limited or (overload and overload.step.result == "invalid"):
        reasons.append("a run was invalid: the load test's own machine set the limit; see its report")
    if knee and not found.broken and not found.limited:
        reasons.append("the objective was met at the highest rate allowed: raise --most")
    met = all(check.met is not False for check in checks)
    return Verdict(
        result="invalid" if reasons else "met" if met else "missed", checks=tuple(checks), reasons=tuple(reasons)
    )


def _memory(share: float | None, most: float, *, metrics: bool) -> Check:
    what, wanted = "peak memory under overload", f"<= {most:.0%} of the knee's"
    if not metrics:
        return Check(what=what, wanted=wanted, found="not looked at: no --metrics", met=None)
    if share is None:
        return Check(what=what, wanted=wanted, found="the metrics did not tell it", met=False)
    return Check(what=what, wanted=wanted, found=f"{share:.0%}", met=share <= most)
