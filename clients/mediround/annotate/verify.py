"""Whether a run can be trusted: manifest, index, ledger and exports read again, and held against one another.

Knows what each must say of the others. Does not know what a row must be (``faults``), or an export
(``export_faults``), and changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mediround.annotate import export_faults, faults
from mediround.annotate import ledger as ledgers
from mediround.annotate.current import files, item_rows
from mediround.annotate.errors import JobError
from mediround.annotate.export_faults import ExportCount, check_exports
from mediround.annotate.exported import Kind, state
from mediround.annotate.files import is_as_named
from mediround.annotate.index import steady
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Ledger
from mediround.annotate.manifest import digest, read_manifest
from mediround.annotate.sorting import scratch

LISTED = 1000
"""Names of items kept of each kind of problem."""
KINDS: dict[str, str] = {
    "manifest": "the manifest is not what was planned: restore it, or plan again",
    "file_changed": "a file of the index holds other bytes than were written: move it away and run again",
    "file_unreadable": "a file of the index is cut off or damaged: move it away and run again",
    "file_lost": "a file of the index that the ledger knows is gone: restore it, or run again",
    "item_lost": "an item that the ledger knows is gone from its file of the index: remove the ledger, run again",
    "doubled": "an item stands with results in more than one place: run again, which merges a folder's files; "
    "where it stands in two folders, move one's file away first",
    "ledger": "the ledger does not say what the index says: remove the ledger and run again",
    "not_finished": "an item has no rows: run again",
    **faults.WORDS,
    **export_faults.WORDS,
}
_SCHEMA = f"""
CREATE TABLE manifest (item_id TEXT PRIMARY KEY, expected BLOB, uri TEXT) WITHOUT ROWID;
CREATE TABLE found (item_id TEXT PRIMARY KEY, ok INTEGER, file TEXT, state TEXT) WITHOUT ROWID;
{export_faults.SCHEMA}
"""
_FIND = """
INSERT INTO found VALUES (?, ?, ?, ?) ON CONFLICT (item_id) DO UPDATE SET
    ok = excluded.ok, file = excluded.file, state = excluded.state WHERE excluded.ok OR NOT found.ok
"""
_BY_FILE = "CREATE INDEX by_file ON found (file)"
_AT_ONCE = 500


@dataclass(slots=True)
class Problem:
    """One kind.

    Attributes:
        count: how often.
        items: names of items, or of the index's files; the first thousand.
    """

    count: int = 0
    items: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Verification:
    """What was found.

    Attributes:
        items: of the manifest.
        ok: of those that have rows, with a result.
        failed: without one.
        not_finished: of the manifest, without rows.
        left_over: with rows, and no longer in the manifest.
        superseded: earlier failures of items that were asked again.
        rounds: rows read.
        masks: of them, with a mask.
        files: of the index.
        unnamed: of them, those whose name does not say what they hold.
        exports: what was written of it.
        problems: by kind (``KINDS``).
    """

    items: int = 0
    ok: int = 0
    failed: int = 0
    not_finished: int = 0
    left_over: int = 0
    superseded: int = 0
    rounds: int = 0
    masks: int = 0
    files: int = 0
    unnamed: int = 0
    exports: dict[Kind, ExportCount] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)

    def note(self, kind: str, name: str) -> None:
        problem = self.problems.setdefault(kind, Problem())
        problem.count += 1
        if len(problem.items) < LISTED and name not in problem.items[-1:]:
            problem.items.append(name)


def verify(job: Job, run: Run, *, complete: bool = False) -> Verification:
    """Read all of a run.

    Args:
        complete: an item without rows is a problem.

    Raises:
        JobError: the scratch database, in the folder for temporary files, cannot be written.
    """
    found = Verification()
    with steady(run.index), scratch(_SCHEMA) as database:
        _manifest(job, database, found)
        there = files(run)
        for path in there:
            _file(path, run, database, found)
        _totals(database, found, complete=complete)
        _ledgers(run, {path.name for path in there}, database, found)
        found.exports = check_exports(run, database, found.note)
    return found


def _manifest(job: Job, database: sqlite3.Connection, found: Verification) -> None:
    try:
        kept = job.manifest_digest()
        if kept is not None and digest(job.manifest) != kept:
            found.note("manifest", job.manifest.name)
        for piece in read_manifest(job.manifest):
            for item in piece:
                values = item.item_id, faults.planned(item), item.uri
                added = database.execute("INSERT OR IGNORE INTO manifest VALUES (?, ?, ?)", values)
                found.items += added.rowcount
                if not added.rowcount:
                    found.note("manifest", item.item_id)
    except JobError:
        found.note("manifest", job.manifest.name)


def _file(path: Path, run: Run, database: sqlite3.Connection, found: Verification) -> None:
    found.files += 1
    try:
        named = is_as_named(path)
        if named is False:
            found.note("file_changed", path.name)
        found.unnamed += named is None
        for rows in item_rows(path):
            name, ok = rows[0].item_id, rows[0].status != "failed"
            found.rounds += len(rows)
            found.masks += sum(row.status == "mask" for row in rows)
            expected = database.execute("SELECT expected FROM manifest WHERE item_id = ?", (name,)).fetchone()
            for fault in sorted(faults.faults(rows, run, expected and expected[0])):
                found.note(fault, name)
            earlier = database.execute("SELECT ok, file FROM found WHERE item_id = ?", (name,)).fetchone()
            if earlier is not None:
                if earlier[1] == path.name or (earlier[0] and ok):
                    found.note("doubled", name)
                else:
                    found.superseded += 1
            database.execute(_FIND, (name, ok, path.name, state(rows)))
    except (JobError, OSError):
        found.note("file_unreadable", path.name)


def _totals(database: sqlite3.Connection, found: Verification, *, complete: bool) -> None:
    known = "FROM found JOIN manifest USING (item_id)"
    found.ok, found.failed = database.execute(f"SELECT TOTAL(ok), TOTAL(NOT ok) {known}").fetchone()
    found.ok, found.failed = int(found.ok), int(found.failed)
    (there,) = database.execute("SELECT COUNT(*) FROM found").fetchone()
    found.left_over = there - found.ok - found.failed
    missing = database.execute("SELECT item_id FROM manifest WHERE item_id NOT IN (SELECT item_id FROM found)")
    for (name,) in missing:
        found.not_finished += 1
        if complete:
            found.note("not_finished", name)


def _ledgers(run: Run, read: set[str], database: sqlite3.Connection, found: Verification) -> None:
    """What ledgers know must be there; what they do not know yet, the next run takes up.

    Args:
        read: names of the files that were read: a run at work writes others meanwhile.
    """
    database.execute(_BY_FILE)
    for path in sorted(run.folder.glob("ledger*.sqlite")):
        with ledgers.looked_at(path) as ledger:
            if ledger is None:
                continue
            known = ledger.parts()
            there = {each.name for each in files(run)}  # after what is known of them
            for names in _pieces(database, known & read):
                for name in sorted(set(names) - ledger.finished(names, failed=True)):
                    found.note("ledger", name)
            unreadable = found.problems.get("file_unreadable", Problem()).items
            _missed(ledger, known - there, (known & read).difference(unreadable), database, found)


def _missed(
    ledger: Ledger, gone: set[str], read: set[str], database: sqlite3.Connection, found: Verification
) -> None:
    """What the ledger knows and the index has not, in one pass over its items.

    Args:
        gone: its files that are not there. What was in one may stand elsewhere: a run of another cut has merged
            it.
        read: its files that were read whole.
    """
    lost = set()
    for name, part, good in ledger.items():
        if part not in gone and part not in read:
            continue
        (ok,) = database.execute("SELECT ok FROM found WHERE item_id = ?", (name,)).fetchone() or (None,)
        if part in gone and (ok is None or (good and not ok)):
            lost.add(part)
        elif part in read and ok is None:
            found.note("item_lost", name)
    for part in sorted(lost):
        found.note("file_lost", part)


def _pieces(database: sqlite3.Connection, parts: set[str]) -> Iterator[list[str]]:
    """Items whose rows count in these parts, some at once."""
    for part in sorted(parts):
        names = database.execute("SELECT item_id FROM found WHERE file = ?", (part,))
        while piece := [name for (name,) in names.fetchmany(_AT_ONCE)]:
            yield piece
