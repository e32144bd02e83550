"""``python -m loadtest``: load for a running server. The composition root: arguments, the terminal, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest import run as runs
from loadtest.knee import KneeObjective, Search
from loadtest.record import Recording
from loadtest.report import compare, model, tables
from loadtest.report.compare import NotComparable
from loadtest.report.model import PAGE, Report, ReportError, Step
from loadtest.report.write import publish, publish_knee
from loadtest.run import RunError, Subject
from loadtest.scenario import Scenario, ScenarioError, read
from loadtest.server_metrics import Endpoint, ScrapeError
from loadtest.sweep import Sweep
from mediround import Tls

MET, MISSED, NOT_RUN, INVALID, INTERRUPTED = 0, 1, 2, 3, 130
CODES = (
    "Exit code 0: the objective is met; 1: it is missed; 2: the run could not begin, or its report not be "
    "written; 3: the run is invalid, since the load test itself was late; 130: interrupted."
)
_BY_RESULT = {"met": MET, "missed": MISSED, "invalid": INVALID}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = _parser().parse_args(arguments)
    try:
        code: int = given.run(given)
    except (RunError, ScenarioError, ScrapeError, ReportError, NotComparable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_RUN
    except KeyboardInterrupt:
        print("interrupted: no report was written", file=sys.stderr)
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load for a running server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="one scenario, at one rate", description=CODES)
    _add_load(run)
    run.add_argument("--rate", type=_positive, metavar="R", help="dialogues a second, instead of the scenario's")
    run.set_defaults(run=_run)
    knee = commands.add_parser(
        "knee",
        help="the highest rate at which the objective is met, and goodput and memory beyond it",
        description=f"{CODES} Here the objective is: there is a knee, and beyond it goodput holds and memory is "
        "bounded.",
    )
    _add_load(knee)
    knee.add_argument("--least", type=_positive, metavar="R", help="rate to begin with (the scenario's)")
    knee.add_argument(
        "--most", type=_positive, metavar="R", help="highest rate that may be tried (256 times that)"
    )
    knee.add_argument("--precision", type=_positive, default=0.1, metavar="SHARE", help="of the knee's rate (0.1)")
    knee.add_argument("--overload", type=_positive, default=3.0, metavar="N", help="last run, in knees (3)")
    knee.add_argument(
        "--goodput",
        type=_positive,
        default=0.8,
        metavar="SHARE",
        help="of the knee's, wanted in the last run (0.8)",
    )
    knee.add_argument(
        "--memory",
        type=_positive,
        default=1.5,
        metavar="SHARE",
        help="of the server's peak resident memory at the knee, allowed in the last run; needs --metrics (1.5)",
    )
    knee.set_defaults(run=_knee)
    comparison = commands.add_parser(
        "compare",
        help="two reports of one scenario",
        description="Exit code 0: B is not worse; 1: it is; 2: the reports cannot be read or compared.",
    )
    comparison.add_argument("before", type=Path, metavar="A", help="a report's directory, or its report.json")
    comparison.add_argument("after", type=Path, metavar="B")
    comparison.add_argument(
        "--tolerance", type=_positive, default=0.1, metavar="SHARE", help="that does not count (0.1)"
    )
    comparison.add_argument("--different", action="store_true", help="compare reports of different scenarios")
    comparison.set_defaults(run=_compare)
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", required=True, metavar="ADDR", help="host:port of the server")
    parser.add_argument("--scenario", type=Path, required=True, metavar="FILE", help="see loadtest/scenarios")
    parser.add_argument("--out", type=Path, default=Path("build/loadtest"), metavar="DIR", help="for the report")
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="ADDR",
        help="host:port, or URL, of the server's metrics; again for each further process of it: counters, and the "
        "highest memory of each, are added up",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="another one sends other images (0)")
    parser.add_argument("--duration", type=_positive, metavar="S", help="time measured, instead of the scenario's")
    for name, what in (("ca", "server's issuer"), ("certificate", "this client's"), ("key", "this client's")):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"TLS: {what}")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("is a number above 0")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError("is a whole number from 0, below 2**32")
    return int(text)


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
    scenario = read(given.scenario).at(duration=given.duration)
    model.writable(given.out)
    least = given.least or scenario.arrivals.rate
    how = Search(least, given.most or least * 256, given.precision)
    with _progress(scenario) as progress:
        sweep = Sweep(
            _subject(given), scenario, given.scenario.parent, given.seed, given.out, _told, progress=progress
        )
        found = asyncio.run(sweep.knee(how, given.overload, KneeObjective(given.goodput, given.memory)))
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


if __name__ == "__main__":
    sys.exit(main())
