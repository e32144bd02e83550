"""``mediround annotate verify``.

Knows what is printed, and that whoever is to be asked answers before hours of reading. Does not know what is
checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from mediround.annotate.command.codes import DONE, ITEMS_FAILED, guarded, needing, tls_of
from mediround.annotate.exported import PLACES
from mediround.annotate.job import Job, Run
from mediround.annotate.replay import Replay, check, replay
from mediround.annotate.verify import KINDS, Verification, verify

_SHOWN = 5


def run(given: argparse.Namespace) -> int:
    """Exit code 0: nothing is wrong; 2: the folder is no job's; 3: something is."""
    return guarded(partial(_run, given))


def _run(given: argparse.Namespace) -> int:
    job = Job.open(given.job)
    current = job.current()
    if given.replay:
        check(current, given.server, tls=tls_of(given))
    amiss = list(_amiss_in(given.stow, current)) if given.stow else []
    found = verify(job, current, complete=given.complete)
    for kind, name in amiss:
        found.note(kind, name)
    if not given.json:
        print(f"run        {current.folder.name}: {current.identity.model_name} {current.identity.model_version}")
        _show(found)
        sys.stdout.flush()
    replayed = None
    try:
        replayed = _replayed(given, job, current)
    finally:  # what was found is told, too, where the service is gone meanwhile
        if given.json:
            again = None if replayed is None else asdict(replayed)
            print(json.dumps({"run": current.folder.name, **asdict(found), "replay": again}))
    if replayed is not None and not given.json:
        _show_replay(replayed, given.margin)
    alike = replayed is None or replayed.passes
    return DONE if alike and not found.problems else ITEMS_FAILED


def _amiss_in(archive: str, run: Run) -> Iterator[tuple[str, str]]:
    """What is wrong there with the objects of the export: a kind of ``KINDS`` and a series' folder for each."""
    with needing("annotate,dicom,dicomweb"):
        from mediround.annotate.outputs.objects import stored  # noqa: PLC0415  # its extra need not be there

        counts = stored(run.folder / PLACES["seg"], archive)
    for name, each in counts.items():
        yield from [("export_not_stored", name)] * each.lacking
        yield from [("export_superseded", name)] * each.others


def _replayed(given: argparse.Namespace, job: Job, current: Run) -> Replay | None:
    if not given.replay:
        return None
    return replay(
        job,
        current,
        given.server,
        given.replay,
        seed=given.seed,
        margin=given.margin,
        tls=tls_of(given),
        timeout=given.timeout,
    )


def _show_replay(found: Replay, margin: float) -> None:
    print(f"replayed   {found.items} items, {found.rounds} rounds, each twice; {found.unlike} unlike")
    beyond = f"{found.beyond} rounds and {found.beyond_pixels} pixels by more than a logit within {margin:g} of 0"
    print(f"the run    differs in {found.other_masks} masks and {found.other_pixels} pixels; in {beyond}")
    for words, count in (
        ("rounds were not judged: they follow a question about a mask that differs", found.not_judged),
        ("items were not replayed: their source is gone or changed", found.gone),
        ("rounds took another wave than the run's", found.other_waves),
        ("rounds have another engine record than the run's", found.other_engine),
    ):
        if count:
            print(f"note       {count} {words}")
    if not found.passes:
        print("wrong      the replay does not confirm the run")


def _show(found: Verification) -> None:
    print(f"items      {found.items}; {found.ok} ok, {found.failed} failed, {found.not_finished} not finished")
    print(f"index      {found.files} files, {found.rounds} rows, {found.masks} masks")
    for kind, export in found.exports.items():
        behind = f"; {export.behind} items were finished since" if export.behind else ""
        print(f"{kind:<10} {export.files} files{behind}")
    for words, count in (
        ("items are no longer in the manifest", found.left_over),
        ("items have earlier rows, of when they failed", found.superseded),
        ("files whose name does not say what they hold", found.unnamed),
    ):
        if count:
            print(f"note       {count} {words}")
    for fault, problem in found.problems.items():
        more = ", ..." if problem.count > _SHOWN else ""
        print(f"wrong      {problem.count}: {fault}: {KINDS[fault]} ({', '.join(problem.items[:_SHOWN])}{more})")
    if not found.problems:
        print("nothing is wrong")
