"""The loop is open: a stalled server is asked all the same, and the wait is in the percentiles."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from loadtest.record import Outcome
from loadtest.report.statistics import from_due
from loadtest.run import Subject, run
from serving.api.server import serving
from tests.loadtest.conftest import Against, scenario
from tests.loadtest.scripted import ScriptedServer


async def test_a_stall_of_a_second_delays_every_dialogue_that_arrives_in_it(against: Against) -> None:
    ran = await against(ScriptedServer(stall_at=10, stall=1.0), scenario(rate=20, duration=2.5))
    seconds = from_due(ran.record.rows)
    assert len(seconds) == 50
    assert ran.report.overall.answered == 50
    # Twenty arrive within the second; half of them wait for more than half of it. A closed loop would see one.
    assert int((seconds > 0.5).sum()) >= 9
    assert ran.report.overall.from_due.largest >= 0.95
    p90 = next(p.seconds for p in ran.report.overall.from_due.percentiles if p.percent == 90)
    assert p90 > 0.5


async def test_a_late_answer_makes_the_next_rounds_late_and_that_counts(against: Against) -> None:
    talk = {"rounds": (20, 20), "think": 0.1, "think_spread": 0.0}
    asked = scenario(rate=0.5, duration=3.0, arrivals={"process": "burst", "burst": 1}, dialogues=talk)
    ran = await against(ScriptedServer(stall_at=3, stall=1.0), asked)
    rows = ran.record.rows[:20]
    by_due, by_sent = rows["done"] - rows["due"], rows["done"] - rows["sent"]
    assert int((by_sent > 0.5).sum()) <= 2  # what a closed loop would have measured
    assert int((by_due > 0.5).sum()) >= 5
    assert np.all(np.diff(rows["sent"]) >= 0)


async def test_a_pace_by_the_answer_counts_from_the_answer(against: Against) -> None:
    talk = {"rounds": (4, 4), "think": 0.05, "think_spread": 0.0, "pace": "answer"}
    asked = scenario(rate=1.0, duration=1.0, dialogues=talk)
    ran = await against(ScriptedServer(delay=0.1), asked)
    rows = ran.record.rows
    answered = rows[rows["outcome"] == Outcome.ANSWERED]
    gaps = answered["due"][1:] - answered["done"][:-1]
    assert len(gaps)
    assert np.all(gaps > 0.05 - 1e-6)  # by the schedule the next would have been due before the answer


async def test_rounds_of_the_warm_up_and_the_ramp_are_no_part_of_the_figures(against: Against) -> None:
    arrivals = {"ramp": 0.5, "warm_up": 0.5}
    ran = await against(ScriptedServer(), scenario(rate=20, duration=1.0, arrivals=arrivals))
    assert ran.report.overall.due == 20
    assert len(ran.record.rows) == 20 + 10 + 5


async def test_a_reported_delay_is_at_least_the_servers(against: Against) -> None:
    ran = await against(ScriptedServer(delay=0.1), scenario(rate=10, duration=1.0))
    assert all(p.seconds >= 0.1 for p in ran.report.overall.from_due.percentiles)
    assert ran.report.verdict.result == "met"


async def test_more_open_dialogues_than_allowed_are_dropped_and_spoil_the_run(against: Against) -> None:
    asked = scenario(rate=20, duration=1.0, generator={"max_open": 2})
    ran = await against(ScriptedServer(delay=0.5), asked)
    assert ran.report.generator.dropped > 0
    assert ran.report.outcomes["dropped"] == ran.report.generator.dropped
    assert ran.report.verdict.result == "invalid"


async def test_a_generator_that_is_late_says_so_and_judges_nothing(against: Against) -> None:
    ran = await against(ScriptedServer(), scenario(generator={"late": 1e-9}))
    assert ran.report.verdict.result == "invalid"
    assert any("late" in reason for reason in ran.report.verdict.reasons)


async def test_a_target_that_dies_ends_the_run_with_every_round_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.driver.GONE", 0.5)
    asked = scenario(rate=10, duration=30.0, calls={"attempts": 1})
    server = ScriptedServer(enough_at=5)
    async with serving(server, drain_seconds=0.1) as running:
        ongoing = asyncio.create_task(run(Subject(running.address), asked, tmp_path, 0))
        await server.enough.wait()
    ran = await ongoing
    assert ran.report.target_gone
    assert ran.report.verdict.result == "missed"
    assert ran.report.overall.due == 300
    assert sum(ran.report.outcomes.values()) == 300
    assert ran.report.outcomes["not_asked"] > 0
    assert ran.report.outcomes["unavailable"] > 0
