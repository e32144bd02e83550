"""A sweep of rates over one server: runs, their reports, and the report of the sweep.

Knows the order of runs and where their reports lie. Does not know how a rate is chosen (``loadtest.knee``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.knee import Beyond, Found, KneeObjective, Search, beyond, search, verdict
from loadtest.report.model import KneeReport, Report, Step, writable
from loadtest.report.write import publish
from loadtest.run import Progress, Subject, exhausted, run
from loadtest.scenario import Scenario
from loadtest.server_metrics import MEMORY

COOLING = 2.0
"""Seconds between two runs, in which the server ends what the last one left."""

Told = Callable[[Step], None]
"""Told of each run when it is over."""


@dataclass(slots=True)
class Sweep:
    subject: Subject
    scenario: Scenario
    folder: Path
    """Of the scenario's file."""
    seed: int
    out: Path
    told: Told
    progress: Progress | None = None
    _last: Report | None = None
    _runs: int = field(default=0)

    async def measure(self, rate: float) -> Step:
        """One run. Its images are its own: the server has seen none of them."""
        if self._runs:
            await asyncio.sleep(COOLING)
        seed = self.seed * 1000 + self._runs
        name = f"{self._runs:02d}-rate-{rate:.4g}"
        self._runs += 1
        ran = await run(self.subject, self.scenario.at(rate=rate), self.folder, seed, self.progress)
        writable(self.out / name)
        publish(ran.report, ran.record, self.out / name)
        self._last = ran.report
        step = _step(rate, ran.report, name)
        self.told(step)
        return step

    async def knee(self, how: Search, overload_factor: float, wanted: KneeObjective) -> KneeReport:
        """Search the knee, then go beyond it.

        Raises:
            RunError, ScenarioError, ReportError: as a run does.
        """
        found = await search(self.measure, how)
        knee = found.knee
        overload = beyond(knee, await self.measure(knee.rate * overload_factor)) if knee else None
        return self._report(found, overload, overload_factor, wanted)

    def _report(self, found: Found, overload: Beyond | None, factor: float, wanted: KneeObjective) -> KneeReport:
        last = self._last
        assert last is not None  # noqa: S101  # a search makes at least one run
        return KneeReport(
            scenario=self.scenario,
            scenario_digest=self.scenario.digest,
            seed=self.seed,
            target=last.target,
            started=last.started,
            machine=last.machine,
            steps=found.steps,
            knee=found.knee,
            broken=found.broken,
            overload=overload.step if overload else None,
            overload_factor=factor,
            goodput_share=overload.goodput if overload else None,
            least_share=wanted.goodput,
            memory_share=overload.memory if overload else None,
            most_memory=wanted.memory,
            verdict=verdict(found, overload, wanted, metrics=bool(self.subject.metrics)),
        )


def _step(rate: float, report: Report, folder: str) -> Step:
    overall, found = report.overall, report.overall.from_due
    by_percent = {p.percent: p.seconds for p in found.percentiles} if found else {}
    wanted = overall.due - overall.given_up
    return Step(
        rate=rate,
        result=report.verdict.result,
        offered_rate=report.offered_rate,
        answered_rate=report.answered_rate,
        goodput=report.goodput,
        within=overall.good / wanted if wanted else 0.0,
        p50=by_percent.get(50.0),
        p95=by_percent.get(95.0),
        p99=by_percent.get(99.0),
        exhausted=exhausted(report),
        peak_bytes=report.server.peaks.get(MEMORY) if report.server else None,
        folder=folder,
    )
