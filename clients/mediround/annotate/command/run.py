"""``mediround annotate run``.

Knows what is printed, and how a run's end becomes an exit code. Does not know how items are asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from functools import partial

from mediround.annotate.annotating import Asking
from mediround.annotate.command.codes import DONE, GIVEN_UP, INTERRUPTED, ITEMS_FAILED, guarded, tls_of
from mediround.annotate.engines.interface import Progress, RunOptions, Summary
from mediround.annotate.engines.local import STOPPED_BY_SIGNAL, LocalEngine
from mediround.annotate.job import Job

_EVERY = 10.0
"""Seconds between two lines where no terminal is."""


def run(given: argparse.Namespace) -> int:
    """Exit code 0: every item is finished; 2: it cannot begin; 3: items failed; 4: given up; 130: interrupted."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current = job.current()
    identity = current.identity
    count, share = given.max_failures
    options = RunOptions(
        server=given.server,
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
    summary = LocalEngine().run(job, current, options, _Lines())
    _show(summary)
    if summary.stopped:
        return INTERRUPTED if summary.stopped == STOPPED_BY_SIGNAL else GIVEN_UP
    return ITEMS_FAILED if summary.progress.failed else DONE


class _Lines:
    """A JSON line every ten seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _EVERY

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            print(json.dumps(asdict(progress)), file=sys.stderr, flush=True)


def _show(summary: Summary) -> None:
    progress = summary.progress
    now = f"{progress.here} of them now, in {summary.seconds:.0f} s"
    print(f"finished   {progress.done} of {progress.total} items; {now}")
    for code, count in summary.failures.items():
        print(f"failed     {count} items: {code}")
    if summary.stopped:
        print(f"stopped    {summary.stopped}; the same command goes on", file=sys.stderr)
