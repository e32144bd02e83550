"""``mediround annotate compare``.

Knows which runs are meant and what is printed. Does not know how they are compared.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from functools import partial

from mediround.annotate.command.codes import DONE, ITEMS_FAILED, guarded
from mediround.annotate.compare.agreement import Agreement
from mediround.annotate.compare.comparing import Comparison, compare
from mediround.annotate.compare.targets import Nearness
from mediround.annotate.compare.verdict import Tolerances
from mediround.annotate.errors import JobError
from mediround.annotate.job import Job, Run


def run(given: argparse.Namespace) -> int:
    """Exit code 0: within tolerances; 2: it cannot be said; 3: beyond them, or too little data for a verdict."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    later = chosen(job, given.later) if given.later else job.current()
    earlier = _earlier(job if given.earlier_job is None else Job.open(given.earlier_job), given.earlier, later)
    found = compare(job, earlier, later, tolerances_of(given), most=given.most)
    if given.json:
        print(json.dumps(asdict(found)))
    else:
        _show(found, earlier, later)
    return DONE if found.verdict.result == "within tolerances" else ITEMS_FAILED


def tolerances_of(given: argparse.Namespace) -> Tolerances:
    return Tolerances(**{each.name: getattr(given, each.name) for each in fields(Tolerances)})


def chosen(job: Job, key: str) -> Run:
    """The run whose key begins so. Raises JobError: there is none, or more than one."""
    matching = [run for run in job.runs() if run.key.startswith(key)]
    if len(matching) != 1:
        keys = ", ".join(run.folder.name for run in job.runs()) or "none"
        raise JobError(f"the beginning of one run's key is needed: the job has {keys}")
    return matching[0]


def _earlier(job: Job, key: str, later: Run) -> Run:
    if key:
        return chosen(job, key)
    others = [run for run in job.runs() if run.folder != later.folder]
    if len(others) != 1:
        if not others:
            words = "serve the other model, `mediround annotate plan --new-run`, and run; or name --earlier-job"
            raise JobError(f"there is no other run to compare with: {words}")
        raise JobError(f"--earlier RUN is needed: there are {', '.join(run.folder.name for run in others)}")
    return others[0]


def _show(found: Comparison, earlier: Run, later: Run) -> None:
    for word, run in (("earlier", earlier), ("later", later)):
        print(f"{word:11}{run.folder.name}: {run.identity.model_name} {run.identity.model_version}")
    failures = f"failed {found.failed_earlier} then alone, {found.failed_later} now alone"
    print(f"items      {found.items} of {found.planned} planned, in both; {failures}")
    if found.not_planned:
        print(f"note       {found.not_planned} items are not in the manifest (any more), and are left out")
    if found.only_later:
        print(f"note       {found.only_later} items are in the later run alone")
    if found.missing:
        print(f"note       {found.missing} planned items are not in the later run: finish it (`run`)")
    if found.only_earlier:
        print(f"note       {found.only_earlier} items are in the earlier run alone")
    for each in (found.overall, *found.structures):
        name, dice, same = _printable(each.structure) or "all", _number(each.dice), _number(each.identical)
        alone = f"in one alone {each.earlier_only} and {each.later_only}"
        size = f", of other sizes {each.other_size}" if each.other_size else ""
        print(f"structure  {name}: {_rounds(each)}, Dice {dice}, identical {same}, {alone}{size}")
    for worst in found.disagreements:
        print(f"disagrees  {worst.dice:.4f} {worst.item_id} round {worst.round}: {_printable(worst.structure)}")
    for near in () if found.targets is None else (found.targets, *found.near):
        name, dice = _printable(near.structure) or "all", f"Dice {near.earlier:.4f} then, {near.later:.4f} now"
        change = f"change {near.low:+.4f} to {near.high:+.4f} (95 %)"
        print(f"targets    {name}: {near.images} images, {_rounds(near)}, {dice}; {change}")
    for check in found.verdict.checks:
        word = {True: "met", False: "missed", None: "unknown"}[check.met]
        print(f"{word:11}{_printable(check.what)}: {check.found} ({check.limit})")
    print(f"verdict    {found.verdict.result}")


def _rounds(each: Agreement | Nearness) -> str:
    return f"{each.rounds} rounds" + (f" ({each.empty} of them empty)" if each.empty else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _printable(text: str) -> str:
    """Labels come from files and must not steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
