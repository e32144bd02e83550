"""One run: the plan, the load, what the server said meanwhile, the report.

Knows the order of work. Does not know how any part of it is done, the terminal, or exit codes.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loadtest.driver import Driven, Driver, RunClock
from loadtest.images import U8, ImageMaker, load_pictures
from loadtest.plan import Plan
from loadtest.record import Outcome, Recording
from loadtest.report import statistics
from loadtest.report.model import Report, RoundFigures, Target
from loadtest.report.verdict import judged
from loadtest.scenario import Scenario, ScenarioError
from loadtest.server_metrics import Endpoint, Observed, ScrapeError, observe, read_into
from loadtest.virtual_user import VirtualUser
from mediround import AsyncClient, MediRoundError, ServerDescription, Tls

_HELLO = 10.0
"""Seconds that the target may take to describe itself."""

Progress = Callable[[float, Recording, int], None]
"""Told of the seconds that passed, the record so far, and the dialogues under way."""


class LoadRunError(Exception):
    """The run could not begin; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is put under load."""

    address: str
    tls: Tls | None = None
    metrics: tuple[Endpoint, ...] = ()
    """Of each of its processes."""


@dataclass(frozen=True, slots=True)
class RunResult:
    report: Report
    record: Recording


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is known of a run when its load begins."""

    scenario: Scenario
    seed: int
    target: Target
    started: str


async def run(
    subject: Subject, scenario: Scenario, folder: Path, seed: int, progress: Progress | None = None
) -> RunResult:
    """Put ``subject`` under the load of ``scenario``, whose file lies in ``folder``.

    Raises:
        RunError: the target or its metrics cannot be reached, or it does not serve what the scenario asks.
        ScenarioError: there is nothing to ask, or no image to ask it about.
    """
    plan = Plan(scenario, seed)
    pictures = await asyncio.to_thread(load_pictures, scenario.images, folder)
    async with AsyncClient(subject.address, tls=subject.tls, timeout=scenario.calls.timeout, retries=0) as client:
        described = await _described(client, subject.address)
        _suits(described, scenario)
        await _readable(subject.metrics)
        begun = _Begun(scenario, seed, _target(subject.address, described), _now())
        record, clock = Recording(plan.rounds), RunClock()
        driver = Driver(
            plan, _maker(scenario, seed, pictures), VirtualUser(client, scenario, record, clock), clock
        )
        watch = (lambda seconds, under_way: progress(seconds, record, under_way)) if progress else None
        async with _observing(subject.metrics, scenario, clock) as observed:
            driven = await driver.drive(lambda: client.describe(timeout=_HELLO), watch)
    return RunResult(_report(begun, record, driven, observed), record)


async def _described(client: AsyncClient, address: str) -> ServerDescription:
    try:
        return await client.describe(timeout=_HELLO)
    except MediRoundError as error:
        raise LoadRunError(
            f"{address}: {error}; is a server running there (make serve), is --target right?"
        ) from error


def _suits(described: ServerDescription, scenario: Scenario) -> None:
    asked = scenario.dialogues
    if asked.rounds[1] > described.limits.max_rounds:
        raise LoadRunError(
            f"dialogues.rounds: up to {asked.rounds[1]}; the server takes {described.limits.max_rounds}"
        )
    if asked.answers not in described.answer_modes:
        raise LoadRunError(f"dialogues.answers: the server does not answer in mode {asked.answers}")


async def _readable(metrics: Sequence[Endpoint]) -> None:
    try:
        await asyncio.gather(*(endpoint.read() for endpoint in metrics))
    except ScrapeError as error:
        raise LoadRunError(f"--metrics: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _maker(scenario: Scenario, seed: int, pictures: list[U8]) -> ImageMaker:
    return ImageMaker(scenario.images, seed, pictures)


@asynccontextmanager
async def _observing(
    metrics: Sequence[Endpoint], scenario: Scenario, clock: Callable[[], float]
) -> AsyncIterator[Sequence[Observed]]:
    """Reads metrics beside the block, and once more when it is over; one of them does not wait for another."""
    each = [(endpoint, Observed()) for endpoint in metrics]
    begins = scenario.arrivals.begins
    reading = [asyncio.create_task(observe(endpoint, into, begins, clock)) for endpoint, into in each]
    try:
        yield [observed for _, observed in each]
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    await asyncio.gather(*(read_into(endpoint, observed) for endpoint, observed in each))


def _report(begun: _Begun, record: Recording, driven: Driven, observed: Sequence[Observed]) -> Report:
    scenario = begun.scenario
    rows = record.measured(scenario.arrivals.begins, scenario.arrivals.ends)
    if not len(rows):
        raise ScenarioError("arrivals: no round was due in the time measured: raise rate or duration")
    seconds = scenario.arrivals.duration
    generator, rounds = statistics.generator(record, driven), statistics.by_round(rows, scenario)
    overall: RoundFigures = rounds[0]
    return Report(
        scenario=scenario,
        scenario_digest=scenario.digest,
        seed=begun.seed,
        target=begun.target,
        started=begun.started,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        seconds=driven.seconds,
        rounds=rounds,
        offered_rate=overall.due / seconds,
        answered_rate=overall.answered / seconds,
        goodput=overall.good / seconds,
        outcomes=statistics.outcomes(rows),
        told_to_retry=record.told_to_retry,
        retried=record.retried,
        target_gone=driven.target_gone,
        seen=statistics.seen(rows),
        server=statistics.server(observed) if observed else None,
        generator=generator,
        series=statistics.series(record.rows[record.rows["due"] >= 0], scenario),
        verdict=judged(rows, scenario, generator, target_gone=driven.target_gone),
    )


def exhausted(report: Report) -> int:
    """Rounds that the server refused for want of room."""
    return report.outcomes.get(Outcome.EXHAUSTED.name.lower(), 0)


def _target(address: str, described: ServerDescription) -> Target:
    return Target(
        address=address,
        model_name=described.model_name,
        model_version=described.model_version,
        model_digest=described.model_digest,
        server_version=described.server_version,
        language_engine=described.language_engine,
        vision_engine=described.vision_engine,
        engine_records=described.engine_records,
    )
