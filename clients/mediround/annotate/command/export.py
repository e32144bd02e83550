"""``mediround annotate export``.

Knows what is printed, and where files lie in the run's folder. Does not know how they are made.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib import import_module

from mediround.annotate.command.codes import DONE, ITEMS_FAILED, guarded
from mediround.annotate.errors import SourceError
from mediround.annotate.job import Job, Run
from mediround.annotate.outputs.coco import write_coco
from mediround.annotate.outputs.labels import write_label_maps
from mediround.annotate.outputs.png import write_masks
from mediround.annotate.results import results


def run(given: argparse.Namespace) -> int:
    """Exit code 0: all is written; 2: it cannot be; 3: some images or series have none; 130: interrupted."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current, left_out = job.current(), 0
    if not any((given.png, given.coco, given.labels, given.seg, given.stow)):
        raise ValueError("say what is to be written: --png, --coco, --labels, --seg or --stow URL")
    if given.png:
        count = sum(write_masks(current.folder / "masks", each) for each in results(job, current))
        print(f"png        {count} masks, in {current.folder / 'masks'}")
    if given.coco:
        path = current.folder / "coco.json"
        print(f"coco       {write_coco(path, results(job, current), current.identity)} annotations, in {path}")
    if given.labels:
        made = write_label_maps(current.folder / "labels", results(job, current))
        left_out += made.left_out
        print(f"labels     {made.cases} cases, {made.left_out} left out, in {current.folder / 'labels'}")
    if given.seg or given.stow:
        left_out += _objects(job, current, given.stow)
    return ITEMS_FAILED if left_out else DONE


def _objects(job: Job, current: Run, archive: str | None) -> int:
    """How many series have none."""
    try:
        from mediround.annotate.outputs.objects import write_objects  # noqa: PLC0415  # its extra need not be there

        if archive is not None:
            import_module("mediround.annotate.dicomweb")
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        words = f"{package} is not installed: in the repository, pip install './clients[annotate,dicom,dicomweb]'"
        raise SourceError(words) from missing
    made = write_objects(current.folder / "seg", results(job, current), current.identity, archive)
    print(f"seg        {made.objects} objects of {made.series} series, in {current.folder / 'seg'}")
    for words, count in made.problems.items():
        print(f"problem    {count} series: {words}", file=sys.stderr)
    return made.problems.total()
