"""The search of the knee, and the verdict on what lies beyond it, where the truth is known."""

from __future__ import annotations

import pytest

from loadtest.knee import KneeObjective, Search, _knee, beyond, search, verdict
from loadtest.report import tables
from loadtest.report.model import Step, Verdict


def step(rate: float, result: str, goodput: float = 1.0, peak_bytes: float | None = None) -> Step:
    return Step.model_validate(
        {
            "rate": rate, "result": result, "offered_rate": rate, "answered_rate": rate, "goodput": goodput,
            "within": 1.0, "p50": None, "p95": None, "p99": None, "exhausted": 0, "peak_bytes": peak_bytes,
            "folder": "",
        }
    )  # fmt: skip


@pytest.mark.parametrize("truth", [0.3, 1.0, 1.5, 7.3, 100.0])
async def test_the_knee_is_found_within_the_precision(truth: float) -> None:
    async def measure(rate: float) -> Step:
        return step(rate, "met" if rate <= truth else "missed")

    found = await search(measure, Search(least=1.0, most=1000.0, most_steps=20))
    assert found.knee is not None
    assert found.broken is not None
    assert found.knee.rate <= truth < found.broken.rate
    assert found.broken.rate - found.knee.rate <= 0.1 * found.broken.rate
    assert [s.rate for s in found.steps] == sorted(s.rate for s in found.steps)


def test_a_lucky_run_beyond_a_broken_rate_is_no_knee() -> None:
    tried = [step(4, "met"), step(1, "met"), step(8, "missed"), step(3, "missed"), step(2, "met")]
    knee = _knee(tried)
    assert knee is not None
    assert knee.rate == 2


async def test_a_load_test_at_its_own_limit_judges_nothing() -> None:
    async def measure(rate: float) -> Step:
        return step(rate, "invalid" if rate > 4 else "met")

    found = await search(measure, Search(least=1.0, most=64.0))
    assert found.limited
    assert verdict(found, None, KneeObjective(), metrics=False).result == "invalid"


async def test_no_knee_below_or_above_is_said() -> None:
    async def never(rate: float) -> Step:
        return step(rate, "missed")

    async def always(rate: float) -> Step:
        return step(rate, "met")

    nothing = await search(never, Search(least=1.0, most=64.0))
    assert nothing.knee is None
    assert verdict(nothing, None, KneeObjective(), metrics=False).result == "missed"
    everything = await search(always, Search(least=1.0, most=8.0))
    assert [s.rate for s in everything.steps] == [1, 2, 4, 8]
    assert verdict(everything, None, KneeObjective(), metrics=False).result == "invalid"


async def overloaded(
    goodput: float, peak: float | None, *, metrics: bool, peak_at_knee: float | None = 100.0
) -> Verdict:
    """The knee is at 2, with a goodput of 10."""

    async def measure(rate: float) -> Step:
        return step(rate, "met" if rate <= 2 else "missed", 10.0, peak_at_knee)

    found = await search(measure, Search(least=1.0, most=64.0))
    assert found.knee is not None
    last = beyond(found.knee, step(6, "missed", goodput, peak))
    return verdict(found, last, KneeObjective(goodput=0.8, memory=1.5), metrics=metrics)


async def test_goodput_beyond_the_knee_is_judged() -> None:
    assert (await overloaded(8.0, 100.0, metrics=True)).result == "met"
    assert (await overloaded(7.9, 100.0, metrics=True)).result == "missed"


async def test_memory_beyond_the_knee_is_judged_where_metrics_are_given() -> None:
    bounded = await overloaded(9.0, 150.0, metrics=True)
    assert bounded.result == "met"
    assert [(c.what, c.found, c.met) for c in bounded.checks[1:]] == [
        ("goodput under overload", "90%", True),
        ("peak memory under overload", "150%", True),
    ]
    grown = await overloaded(9.0, 151.0, metrics=True)
    assert grown.result == "missed"
    assert [check.met for check in grown.checks] == [True, True, False]


@pytest.mark.parametrize(("peak", "peak_at_knee"), [(None, 100.0), (100.0, None)])
async def test_memory_that_the_metrics_do_not_tell_is_not_taken_for_bounded(
    peak: float | None, peak_at_knee: float | None
) -> None:
    untold = await overloaded(9.0, peak, metrics=True, peak_at_knee=peak_at_knee)
    assert untold.result == "missed"
    assert untold.checks[-1].found == "the metrics did not tell it"


async def test_without_metrics_the_verdict_says_that_memory_was_not_looked_at() -> None:
    unseen = await overloaded(9.0, None, metrics=False, peak_at_knee=None)
    assert unseen.result == "met"
    assert (unseen.checks[-1].met, unseen.checks[-1].found) == (None, "not looked at: no --metrics")
    assert tables.checks(unseen).rows[-1][-1] == "-"
