"""Comparison of reports, where the truth is known."""

from __future__ import annotations

import pytest

from loadtest.report.compare import NotComparable, compare
from loadtest.report.model import Report
from loadtest.run import RunResult
from tests.loadtest.conftest import Against, scenario
from tests.loadtest.scripted import ScriptedServer


async def ran(against: Against, delay: float) -> Report:
    done: RunResult = await against(ScriptedServer(delay=delay), scenario(rate=40, duration=1.0))
    return done.report


async def test_a_slower_server_is_worse_and_an_equal_one_is_not(against: Against) -> None:
    fast, again, slow = await ran(against, 0.05), await ran(against, 0.05), await ran(against, 0.3)
    worse = {line.what for line in compare(fast, slow, 0.1) if line.verdict == "worse"}
    assert "all rounds, p50 s" in worse
    assert {line.verdict for line in compare(slow, fast, 0.1)} == {"", "better"}
    # Where a percentile of 40 rounds lies is not sure enough for its extremes to be told apart.
    assert not any(line.verdict for line in compare(fast, again, 2.0))


async def test_other_scenarios_and_invalid_runs_are_not_compared(against: Against) -> None:
    found = await ran(against, 0.0)
    other = found.model_copy(update={"scenario_digest": "0" * 64})
    with pytest.raises(NotComparable, match="--different"):
        compare(found, other, 0.1)
    assert compare(found, other, 0.1, different=True)
    spoiled = found.verdict.model_copy(update={"result": "invalid", "reasons": ("late",)})
    with pytest.raises(NotComparable, match="B is invalid: late"):
        compare(found, found.model_copy(update={"verdict": spoiled}), 0.1)
