"""``mediround evaluate``: runs, shows progress, prints the report.

Knows the command's arguments and the terminal. Does not know how anything is evaluated.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mediround._commands import tls
from mediround.errors import InvalidArgument
from mediround.evaluate import DataError, EvaluationReport, Options, RunError, evaluate
from mediround.evaluate.report import show

DONE, ITEMS_FAILED, NOT_RUN, INTERRUPTED = 0, 1, 2, 130
_PLAIN_WIDTH = 110


def run(given: argparse.Namespace) -> int:
    """Exit code 0: done, 1: items failed and are listed, 2: the run could not begin or go on, 130: interrupted."""
    try:
        report = _with_progress(given)
    except (RunError, DataError, InvalidArgument, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return NOT_RUN
    except KeyboardInterrupt:
        print("interrupted: run again with the same --out to go on", file=sys.stderr)
        return INTERRUPTED
    show(report, Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH))
    print(f"report, results and plots: {given.out}")
    return ITEMS_FAILED if report.failures else DONE


def _with_progress(given: argparse.Namespace) -> EvaluationReport:
    options = Options(given.policy, given.answers, given.concurrency, given.timeout)
    columns = (
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None, failed=0)

        def progress(done: int, total: int, failed: int) -> None:
            bar.update(task, completed=done, total=total, failed=failed)

        return evaluate(
            given.server, given.data, given.root, given.out, options, tls=tls(given), progress=progress
        )
