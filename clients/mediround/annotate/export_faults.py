"""What may be wrong with a run's exports: their files read again, and held against the results that count now.

Knows lists and files. Does not know what files hold, or which results count: a database that is given says so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mediround.annotate.errors import JobError
from mediround.annotate.exported import KINDS, NAMES_IMAGES, PLACES, Kind, ListedFile, lists, placed, read_list
from mediround.annotate.files import file_digest
from mediround.annotate.job import Run

WORDS: dict[str, str] = {
    "export_list": "the list of an export's files cannot be trusted: export again",
    "export_missing": "a file of an export is gone: export again",
    "export_changed": "a file of an export holds other bytes than were written: export again",
    "export_stale": "a file of an export shows what counts no more: export again",
    "export_not_stored": "objects that the archive does not have: export with --stow again",
    "export_superseded": "objects in the archive that an earlier export stored in a series: remove them there",
    "export_unlisted": "a file that no finished export wrote lies among an export's: move it away",
}
SCHEMA = """
CREATE TABLE listed (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE exported (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_NOW = "SELECT state, uri FROM found JOIN manifest USING (item_id) WHERE item_id = ? AND ok"
_BEHIND = """
SELECT COUNT(*) FROM found JOIN manifest USING (item_id) WHERE ok AND item_id NOT IN (SELECT item_id FROM exported)
"""

Note = Callable[[str, str], None]
"""Takes a kind of ``WORDS``, and a name: of an item, or of a file or folder that says nothing of its image."""


@dataclass(slots=True)
class ExportCount:
    """One export.

    Attributes:
        files: on its list.
        behind: items with a result that were not finished when it was made.
    """

    files: int = 0
    behind: int = 0


def check_exports(run: Run, database: sqlite3.Connection, note: Note) -> dict[Kind, ExportCount]:
    """Every export that there is.

    Args:
        database: with ``SCHEMA``, a table ``manifest`` (item_id, uri), and a table ``found`` of the results that
            count (item_id, ok, and the ``state`` of its rows).
    """
    counts: dict[Kind, ExportCount] = {}
    for kind in KINDS:
        of_kind = lists(run, kind)
        if of_kind or (run.folder / PLACES[kind]).exists():
            counts[kind] = _check(run, kind, of_kind, database, note)
    return counts


def _check(run: Run, kind: Kind, of_kind: list[Path], database: sqlite3.Connection, note: Note) -> ExportCount:
    count = ExportCount()
    database.execute("DELETE FROM listed")
    database.execute("DELETE FROM exported")
    if len(of_kind) > 1:  # killed between two steps of its end
        note("export_list", kind)
    try:
        for path in of_kind:
            for listed in read_list(path, run, kind):
                count.files += bool(listed.name)
                _check_file(run, kind, listed, database, note)
    except (JobError, OSError):
        note("export_list", kind)
        return count
    for name in _files(run, kind):
        if not database.execute("SELECT 1 FROM listed WHERE name = ?", (name,)).fetchone():
            note("export_unlisted", PLACES[kind])
    (count.behind,) = database.execute(_BEHIND).fetchone()
    return count


def _check_file(run: Run, kind: Kind, listed: ListedFile, database: sqlite3.Connection, note: Note) -> None:
    title, stale = listed.name, False
    for item_id, then in listed.items:
        database.execute("INSERT OR IGNORE INTO exported VALUES (?)", (item_id,))
        stale = stale or then != _now(kind, item_id, database)
        if kind == "png":  # whose names hold a question's
            title = item_id
    if not listed.name:
        return
    database.execute("INSERT OR IGNORE INTO listed VALUES (?)", (listed.name,))
    if stale:
        note("export_stale", title)
    try:
        if file_digest(run.folder / listed.name) != listed.sha256:
            note("export_changed", title)
    except OSError:
        note("export_missing", title)


def _now(kind: Kind, item_id: str, database: sqlite3.Connection) -> str | None:
    """The state of an item's results; None: it has none that count."""
    found = database.execute(_NOW, (item_id,)).fetchone()
    if found is None:
        return None
    return placed(*found) if kind in NAMES_IMAGES else str(found[0])


def _files(run: Run, kind: Kind) -> Iterator[str]:
    place = run.folder / PLACES[kind]
    for path in place.rglob("*") if place.is_dir() else [place] if place.exists() else ():
        if not path.is_dir():
            yield path.relative_to(run.folder).as_posix()
