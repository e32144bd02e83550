"""``mediround annotate run``.

Knows what is printed, and how a run's end becomes an exit code. Does not know how items are asked.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager
from functools import partial

from mediround.annotate.annotating import Asking
from mediround.annotate.command.codes import AGAIN, DONE, GIVEN_UP, INTERRUPTED, ITEMS_FAILED, guarded, tls_of
from mediround.annotate.command.engine import engine, service
from mediround.annotate.engines.interface import STOPPED_BY_SIGNAL, RunOptions, Summary
from mediround.annotate.job import Job, Run
from mediround.annotate.progress import Teller, default_form, shown
from mediround.annotate.work import shard_name


def run(given: argparse.Namespace) -> int:
    """Exit code 0: every item is finished; 2: it cannot begin; 3: items failed; 4: given up, or it cannot begin
    now; 130: interrupted.
    """
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current = job.current()
    with service(given) as (address, ended), _told(given, current) as watch:
        summary = engine(given, ended).run(job, current, _options(given, current, address), watch)
        watch.ended(summary.stopped)
    _show(summary)
    if summary.stopped:
        return INTERRUPTED if summary.stopped == STOPPED_BY_SIGNAL else GIVEN_UP
    return ITEMS_FAILED if summary.progress.failed else DONE


def _told(given: argparse.Namespace, current: Run) -> AbstractContextManager[Teller]:
    form = given.progress or default_form(sys.stderr)
    return shown(form, current.key, shard=shard_name(given.shard), metrics=given.metrics)


def _options(given: argparse.Namespace, current: Run, address: str) -> RunOptions:
    identity = current.identity
    count, share = given.max_failures
    return RunOptions(
        server=address,
        asking=Asking(current.key, identity.correction, identity.threshold, timeout=given.timeout),
        tls=tls_of(given),
        in_flight=given.in_flight,
        retry_failed=given.retry_failed,
        shard=given.shard,
        max_failures=count,
        max_failure_share=share,
        rate=given.rate,
        window=given.between,
        grace=given.grace,
    )


def _show(summary: Summary) -> None:
    progress = summary.progress
    now = f"{progress.here} of them now, in {summary.seconds:.0f} s"
    print(f"finished   {progress.done} of {progress.total} items; {now}")
    for code, count in summary.failures.items():
        print(f"failed     {count} items: {code}")
    if summary.failures:
        print(AGAIN)
    if summary.stopped:
        print(f"stopped    {summary.stopped}; the same command goes on", file=sys.stderr)
