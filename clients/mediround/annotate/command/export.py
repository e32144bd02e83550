"""``mediround annotate export``.

Knows what is printed, and where files lie in the run's folder. Does not know how they are made.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib import import_module

from mediround.annotate.command.codes import DONE, ITEMS_FAILED, guarded, needing
from mediround.annotate.engines.service import engine_records
from mediround.annotate.job import Job, Run
from mediround.annotate.outputs.coco import write_coco
from mediround.annotate.outputs.kept import Export, exporting
from mediround.annotate.outputs.labels import write_label_maps
from mediround.annotate.outputs.png import write_masks
from mediround.annotate.results import results


def run(given: argparse.Namespace) -> int:
    """Exit code 0: all is written; 2: it cannot be; 3: some images or series have none; 4: it cannot be written
    now; 130: interrupted.
    """
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current, left_out = job.current(), 0
    if not any((given.png, given.coco, given.labels, given.seg, given.stow)):
        raise ValueError("say what is to be written: --png, --coco, --labels, --seg or --stow URL")
    if given.png:
        with exporting(current, "png") as export:
            count = write_masks(export, results(job, current))
        _say(export, f"{count} masks")
    if given.coco:
        with exporting(current, "coco") as export:
            count = write_coco(export, results(job, current), current.identity)
        _say(export, f"{count} annotations")
    if given.labels:
        with exporting(current, "labels") as export:
            made = write_label_maps(export, results(job, current))
        left_out += made.left_out
        _say(export, f"{made.cases} cases, {made.left_out} left out")
    if given.seg or given.stow:
        left_out += _objects(job, current, given.stow)
    return ITEMS_FAILED if left_out else DONE


def _objects(job: Job, current: Run, archive: str | None) -> int:
    """How many series have none."""
    with needing("annotate,dicom,dicomweb"):
        from mediround.annotate.outputs.objects import write_objects  # noqa: PLC0415  # its extra need not be there

        if archive is not None:
            import_module("mediround.annotate.dicomweb")
    records = engine_records(current)
    with exporting(current, "seg") as export:
        made = write_objects(export, results(job, current), current.identity, records, archive)
    _say(export, f"{made.objects} objects of {made.series} series")
    for words, count in made.problems.items():
        print(f"problem    {count} series: {words}", file=sys.stderr)
    return made.problems.total()


def _say(export: Export, words: str) -> None:
    print(f"{export.kind:<10} {words}, in {export.place}")
    if export.removed:
        print(f"           {export.removed} files of an earlier export removed: they show what counts no more")
