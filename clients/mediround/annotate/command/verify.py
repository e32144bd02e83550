"""``mediround annotate verify``.

Knows what is printed. Does not know what is checked.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial

from mediround.annotate.command.codes import DONE, ITEMS_FAILED, guarded
from mediround.annotate.job import Job
from mediround.annotate.verify import KINDS, Verification, verify

_SHOWN = 5


def run(given: argparse.Namespace) -> int:
    """Exit code 0: nothing is wrong; 2: the folder is no job's; 3: something is."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current = job.current()
    found = verify(job, current, complete=given.complete)
    if given.json:
        print(json.dumps({"run": current.folder.name, **asdict(found)}))
    else:
        print(f"run        {current.folder.name}: {current.identity.model_name} {current.identity.model_version}")
        _show(found)
    return ITEMS_FAILED if found.problems else DONE


def _show(found: Verification) -> None:
    print(f"items      {found.items}; {found.ok} ok, {found.failed} failed, {found.not_finished} not finished")
    print(f"index      {found.files} files, {found.rounds} rows, {found.masks} masks")
    for words, count in (
        ("items are no longer in the manifest", found.left_over),
        ("items have earlier rows, of when they failed", found.superseded),
        ("files whose name does not say what they hold", found.unnamed),
    ):
        if count:
            print(f"note       {count} {words}")
    for kind, problem in found.problems.items():
        more = ", ..." if problem.count > _SHOWN else ""
        print(f"wrong      {problem.count}: {kind}: {KINDS[kind]} ({', '.join(problem.items[:_SHOWN])}{more})")
    if not found.problems:
        print("nothing is wrong")
