"""The commands of ``python -m loadtest``: the composition root, the terminal, exit codes.

Knows what each command builds and prints. Does not know how its arguments are written.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import run as runs
from loadtest.knee import KneeObjective, Search
from loadtest.record import Recording
from loadtest.report import compare, model, tables
from loadtest.report.compare import NotComparable
from loadtest.report.model import PAGE, Report, ReportError, Step
from loadtest.report.write import publish, publish_knee
from loadtest.run import LoadRunError, Subject
from loadtest.scenario import Scenario, ScenarioError, read
from loadtest.server_metrics import Endpoint, ScrapeError
from loadtest.sweep import Sweep
from mediround import InvalidArgument, Tls

MET, MISSED, NOT_RUN, INVALID, INTERRUPTED = 0, 1, 2, 3, 130
_BY_RESULT = {"met": MET, "missed": MISSED, "invalid": INVALID}


def run(given: argparse.Namespace) -> int:
    """Run ``given.command``; its exit code."""
    try:
        return {"run": _run, "knee": _knee, "compare": _compare}[given.command](given)
    except (
        LoadRunError,
        ScenarioError,
        ScrapeError,
        ReportError,
        NotComparable,
        InvalidArgument,
        OSError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_RUN
    except KeyboardInterrupt:
        print("interrupted: no report was written", file=sys.stderr)
        return INTERRUPTED


def _run(given: argparse.Namespace) -> int:
    scenario = read(given.scenario).at(rate=given.rate, duration=given.duration)
    model.writable(given.out)
    with _progress(scenario) as progress:
        ran = asyncio.run(runs.run(_subject(given), scenario, given.scenario.parent, given.seed, progress))
    publish(ran.report, ran.record, given.out)
    _show(ran.report)
    print(f"\nreport: {given.out / PAGE}")
    return _BY_RESULT[ran.report.verdict.result]


def _knee(given: argparse.Namespace) -> int:
    if given.memory is not None and not given.metrics:
        raise LoadRunError("--memory must be left out unless --metrics is given")
    objective = KneeObjective(given.goodput)
    if given.memory is not None:
        objective = replace(objective, memory=given.memory)
    scenario = read(given.scenario).at(duration=given.duration)
    model.writable(given.out)
    least = given.least or scenario.arrivals.rate
    how = Search(least, given.most or least * 256, given.precision)
    with _progress(scenario) as progress:
        sweep = Sweep(
            _subject(given), scenario, given.scenario.parent, given.seed, given.out, _told, progress=progress
        )
        found = asyncio.run(sweep.knee(how, given.overload, objective))
    publish_knee(found, given.out)
    print("\n".join(tables.knee_notes(found)))
    print(tables.plain(tables.steps(found)))
    print(tables.plain(tables.checks(found.verdict)))
    print(f"\nobjective: {found.verdict.result}\nreport: {given.out / PAGE}")
    return _BY_RESULT[found.verdict.result]


def _compare(given: argparse.Namespace) -> int:
    before, after = (model.read(path, Report) for path in (given.before, given.after))
    lines = compare.compare(before, after, given.tolerance, different=given.different)
    print(tables.plain(compare.table(lines)))
    worse = [line.what for line in lines if line.verdict == "worse"]
    print(f"\nB is worse: {', '.join(worse)}" if worse else "\nB is not worse")
    return MISSED if worse else MET


def _subject(given: argparse.Namespace) -> Subject:
    parts = (given.tls_ca, given.tls_certificate, given.tls_key)
    metrics = tuple(Endpoint(address) for address in given.metrics)
    return Subject(given.target, Tls(*parts) if any(parts) else None, metrics)


def _show(found: Report) -> None:
    print("\n".join(tables.notes(found)))
    for table in (tables.rounds(found), tables.outcomes(found), tables.caches(found), tables.generator(found)):
        print(f"\n{tables.plain(table)}")
    print(f"\n{tables.plain(tables.checks(found.verdict))}\n\nobjective: {found.verdict.result}")


def _told(step: Step) -> None:
    print(
        f"{step.rate:g} dialogues a second: {step.result}, {step.offered_rate:.2f} rounds a second offered, "
        f"{step.goodput:.2f} in time",
        file=sys.stderr,
    )


@contextmanager
def _progress(scenario: Scenario) -> Iterator[Callable[[float, Recording, int], None] | None]:
    """A bar where there is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("loading"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=scenario.arrivals.ends)

        def progress(seconds: float, record: Recording, under_way: int) -> None:
            words = f"{record.answered} rounds answered, {record.failed} failed, {under_way} dialogues under way"
            bar.update(task, completed=seconds, description=words)

        yield progress
