"""``mediround annotate status``.

Knows what is printed. Does not know how items are counted.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

from mediround.annotate.command.codes import AGAIN, DONE, ITEMS_FAILED, guarded
from mediround.annotate.job import Job
from mediround.annotate.manifest import count_items
from mediround.annotate.standing import standing


def run(given: argparse.Namespace) -> int:
    """Exit code 0: no item failed so far; 2: the folder is no job's; 3: items failed."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current = job.current()
    total, found = count_items(job.manifest), standing(job, current)
    left = found.seconds_left(total)
    if given.json:
        said = {
            "run": current.folder.name,
            "model": f"{current.identity.model_name} {current.identity.model_version}",
            "items": total,
            "ok": found.finished.ok,
            "failed": found.finished.failed,
            "failures": found.failures,
            "items_per_second": round(found.rate, 3),
            "seconds_left": None if left is None else round(left, 1),
        }
        print(json.dumps(said))
    else:
        print(f"run        {current.folder.name}: {current.identity.model_name} {current.identity.model_version}")
        print(f"items      {total}; finished {found.finished.all}, of which {found.finished.failed} failed")
        if left:
            print(f"rate       {found.rate:.3g} items a second; about {left:.0f} s left at that")
        for code, count in found.failures.items():
            print(f"failed     {count} items: {code}")
        if found.failures:
            print(AGAIN)
    return ITEMS_FAILED if found.finished.failed else DONE
