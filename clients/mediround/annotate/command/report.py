"""``mediround annotate report``.

Knows which run is meant and what is printed. Does not know pages.
"""

from __future__ import annotations

import argparse
from functools import partial

from mediround.annotate.command.codes import DONE, guarded
from mediround.annotate.command.compare import chosen, tolerances_of
from mediround.annotate.job import Job
from mediround.annotate.report.writing import Against, write


def run(given: argparse.Namespace) -> int:
    """Exit code 0: it is written; 2: the folder is no job's, or the report cannot be written."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    shown = chosen(job, given.run_key) if given.run_key else job.current()
    other = job if given.against_job is None else Job.open(given.against_job)
    against = None
    if given.against or given.against_job:
        against = Against(chosen(other, given.against), tolerances_of(given))
    made = write(job, shown, given.out, most=given.most, against=against, identify=given.identify)
    pictures = f"{made.pictures} with a picture"
    print(f"report     {made.items} of {made.of} items, {pictures}; {made.pages} pages of details")
    if made.not_planned:
        print(f"note       {made.not_planned} items are not in the manifest (any more), and are left out")
    if made.compared is not None:
        of = f"{made.compared.items} of {made.compared.planned} planned items"
        print(f"compared   {of}: {made.compared.verdict.result}")
    print(f"open       {given.out / 'index.html'}")
    return DONE
