"""``mediround annotate plan``.

Knows what is printed. Does not know how items are listed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from mediround.annotate import planning, reviews
from mediround.annotate.annotating import Asking
from mediround.annotate.command.codes import DONE, guarded, tls_of
from mediround.annotate.command.engine import service
from mediround.annotate.errors import AnnotateError, NotNow
from mediround.annotate.files import locked, remove_unfinished
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.ledger import Finished, alone, opened
from mediround.annotate.manifest import read_names
from mediround.annotate.planning import BYTES_A_ROUND, Estimate, Planned
from mediround.annotate.reviews import Rejected
from mediround.annotate.sources import omissions
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.annotate.sources.omissions import LOST, WORDS, Omissions, Reason
from mediround.client import Client
from mediround.templates import load

_TOLD_EVERY = 1000


def run(given: argparse.Namespace) -> int:
    """Exit code 0: planned; 2: it cannot be; 4: it cannot be now, or the server did not answer."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    with service(given) as (address, _):
        return _planned(given, address)


def _planned(given: argparse.Namespace, address: str) -> int:
    template = load(given.template) if given.template else None
    with Client(address, tls=tls_of(given), timeout=given.timeout) as client:
        served = client.describe()
    if template is not None:
        for words in template.check(served):
            print(f"note: {words}", file=sys.stderr)
    job = Job.begin(given.job)
    identity = RunIdentity.of(served, given.policy, given.threshold)
    job.check(identity, new=given.new_run)  # before a listing that may take hours
    rejected = Rejected() if given.first is None else reviews.rejected(given.first, job)
    with _nobody_at_work(job), omissions.kept(job.not_taken) as left_out, _said_why(left_out):
        first = rejected.images
        options = SourceOptions(template, given.root, given.window, given.references, first, _listed, left_out)
        items = items_of(given.source, options)
        planned = planning.freeze(job, items, first, allow_fewer=given.allow_fewer)
    run_of_job = job.take_up(identity, new=given.new_run)
    for reason in sorted(LOST & left_out.counts.keys()):
        print(f"warning: {left_out.counts[reason]} {WORDS[reason]}; {job.not_taken} has them", file=sys.stderr)
    asking = Asking(run_of_job.key, given.policy, run_of_job.identity.threshold, timeout=given.timeout)
    estimate = planning.probe(job, address, asking, tls_of(given))
    _show(given, planned, left_out.counts, estimate, rejected, done=_done(job, run_of_job), of=run_of_job)
    return DONE


@contextmanager
def _said_why(left_out: Omissions) -> Iterator[None]:
    """Where the block refuses a source, also what was not taken of it."""
    try:
        yield
    except AnnotateError:
        for reason, count in left_out.counts.most_common():
            print(f"not taken  {count} {WORDS[reason]}", file=sys.stderr)
        raise


@contextmanager
def _nobody_at_work(job: Job) -> Iterator[None]:
    """While the block runs: all runs read the one manifest. Raises NotNow: one is at work, or another plan."""
    with ExitStack() as locks:
        if not locks.enter_context(locked(job.folder / "plan.lock")):
            raise NotNow("another plan is at work in this folder: wait, or stop it")
        remove_unfinished(job.manifest)
        remove_unfinished(job.not_taken)
        for each in job.runs():
            locks.enter_context(alone(each))
        yield


def _listed(count: int) -> None:
    if count % _TOLD_EVERY == 0 and sys.stderr.isatty():
        print(f"\r{count} items", end="", file=sys.stderr)


def _done(job: Job, run_of_job: Run) -> Finished:
    """Of the items, those that an earlier start of the run has finished: it asks about the others."""
    with opened(run_of_job) as ledger:
        found = [ledger.counted(names) for names in read_names(job.manifest)]
    return Finished(sum(each.ok for each in found), sum(each.failed for each in found))


def _show(
    given: argparse.Namespace,
    planned: Planned,
    not_taken: Counter[Reason],
    estimate: Estimate,
    rejected: Rejected,
    *,
    done: Finished,
    of: Run,
) -> None:
    left = planned.items - done.all
    share = left / planned.items
    said = {
        "items": planned.items,
        "images": planned.images,
        "rounds": planned.rounds,
        "to_do": left,
        "failed": done.failed,
        "about_given_masks": planned.given,
        "about_rounds": planned.referring,
        "problems": dict(planned.problems),
        "not_taken": dict(not_taken),
        "rejected": rejected.items,
        "rejected_first": planned.first.total(),
        "seconds_an_item": round(estimate.seconds_an_item, 3),
        "probed": estimate.probed,
        "expected_seconds": round(estimate.seconds(left), 1),
        "index_bytes": int(planned.rounds * share * BYTES_A_ROUND),
        "free_bytes": shutil.disk_usage(given.job).free,
        "model": f"{of.identity.model_name} {of.identity.model_version}",
        "run": of.folder.name,
    }
    if given.json:
        print(json.dumps(said))
        return
    print(f"items      {planned.items}, of {planned.images} images; {planned.rounds} rounds")
    print(f"to do      {left}: those that this model has not finished")
    if done.failed:
        print(f"failed     {done.failed} before, which `mediround annotate run --retry-failed` alone asks again")
    _show_listed(given, planned, not_taken, rejected)
    print(f"time       {_time(estimate, left)}")
    print(f"disk       about {int(planned.rounds * share * BYTES_A_ROUND) >> 20} MiB for the index")
    print(f"run        {of.folder.name}: {said['model']}, policy {of.identity.correction}")
    service_said = f"--engine embedded --bundle {given.bundle}" if given.bundle else f"--server {given.server}"
    print(f"next       mediround annotate run --job {given.job} {service_said}")


def _show_listed(
    given: argparse.Namespace, planned: Planned, not_taken: Counter[Reason], rejected: Rejected
) -> None:
    if planned.given or given.references:
        print(
            f"references {planned.given} questions about masks of the archive, {planned.referring} about rounds'"
        )
    if given.first:
        words = "rejections are of images of this plan, which come first"
        print(f"review     {planned.first.total()} of {rejected.items} {words}")
    for code, count in planned.problems.most_common():
        print(f"problem    {count} items fail without being asked: {code}")
    for reason, count in not_taken.most_common():
        print(f"not taken  {count} {WORDS[reason]}")


def _time(estimate: Estimate, left: int) -> str:
    if not estimate.probed:
        return "not known: no item could be asked"
    words = f"{estimate.seconds(left):.0f} s one after the other, less with several in flight"
    return f"{words}; from {estimate.probed} items asked now"
