"""Files of an export: written where they are not there as they must be, so that a second one costs little; and
listed. What an earlier export wrote, and this one neither writes nor keeps, is removed.

Knows files and lists. Does not know what files hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path

from mediround.annotate.errors import JobError, NotNow
from mediround.annotate.exported import (
    NAMES_IMAGES,
    PLACES,
    Kind,
    lists,
    placed,
    read_list,
    state,
    write_list,
)
from mediround.annotate.files import file_digest, locked, remove_unfinished, write_atomic
from mediround.annotate.job import Run
from mediround.annotate.results import Result
from mediround.annotate.sorting import scratch

_SCHEMA = """
CREATE TABLE items (item_id TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE made_of (name TEXT, item_id TEXT, PRIMARY KEY (name, item_id)) WITHOUT ROWID;
CREATE INDEX of_item ON made_of (item_id);
CREATE TABLE earlier (
    name TEXT, sha256 TEXT, item_id TEXT, state TEXT, PRIMARY KEY (name, sha256, item_id)
) WITHOUT ROWID;
"""
_LINES = """
SELECT name, sha256, item_id, state FROM files LEFT JOIN made_of USING (name) LEFT JOIN items USING (item_id)
UNION ALL
SELECT NULL, NULL, item_id, state FROM items WHERE item_id NOT IN (SELECT item_id FROM made_of)
ORDER BY 1, 3
"""


_STANDS = """
SELECT item_id, earlier.state IS items.state FROM earlier LEFT JOIN items USING (item_id)
WHERE name = ? AND sha256 = ? AND item_id != ''
"""
"""Of what a file was made, and whether its results are the same now."""


class Export:
    """One export under way, of one kind.

    Attributes:
        kind: which.
        removed: files of an earlier one that it removed; counted when it is whole.
    """

    def __init__(self, run: Run, kind: Kind, database: sqlite3.Connection) -> None:
        self.removed = 0
        self.kind, self._run, self._database = kind, run, database
        remove_unfinished(self.place)
        for path in lists(run, kind):
            with suppress(JobError):  # what a damaged list names stays, and is then in no list
                for listed in read_list(path, run, kind):
                    made_of = chain([("", "")], listed.items)
                    lines = ((listed.name, listed.sha256, item_id, was) for item_id, was in made_of)
                    database.executemany("INSERT OR IGNORE INTO earlier VALUES (?, ?, ?, ?)", lines)

    @property
    def place(self) -> Path:
        """Where its files lie, or its only one."""
        return self._run.folder / PLACES[self.kind]

    def of(self, found: Iterable[Result]) -> Iterator[Result]:
        """The same results, noted: each export begins with it."""
        for result in found:
            if result.answered:
                item, now = result.item, state(result.rows)
                now = placed(now, item.uri) if self.kind in NAMES_IMAGES else now
                self._database.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", (item.item_id, now))
            yield result

    def keep(self, path: Path, content: bytes, item_ids: Iterable[str] = ()) -> None:
        """A file that is made of these items; without any, of none in particular. Raises JobError: it cannot be
        written.
        """
        try:
            there = path.stat().st_size == len(content) and path.read_bytes() == content
        except FileNotFoundError:
            there = False
        except OSError as error:
            raise JobError(f"{path.name}: cannot be read ({error.strerror}); move it away") from error
        if not there:
            write_atomic(path, content)
        self._note(path, sha256(content).hexdigest(), item_ids)

    def keep_written(self, path: Path) -> None:
        """A file that is there, and made of all items."""
        self._note(path, file_digest(path), ())
        self._database.execute("INSERT INTO made_of SELECT ?, item_id FROM items", (self._name(path),))

    def earlier(self, path: Path) -> bytes | None:
        """What an earlier export wrote there, of whatever results; None: it is not there as it was written."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        key = self._name(path), sha256(content).hexdigest()
        found = self._database.execute("SELECT 1 FROM earlier WHERE name = ? AND sha256 = ?", key).fetchone()
        return None if found is None else content

    def keep_earlier(self, folder: Path) -> None:
        """An earlier export's files in a folder, where they cannot be made again: those of results that are the
        same now.
        """
        for path in sorted(folder.glob("*")):
            content = self.earlier(path)
            if content is not None:
                digest = sha256(content).hexdigest()
                made_of = self._database.execute(_STANDS, (self._name(path), digest)).fetchall()
                if made_of and all(same for _, same in made_of):
                    self._note(path, digest, [item_id for item_id, _ in made_of])

    def end(self) -> None:
        """All is written: remove what is out of date, then keep the list. Raises JobError."""
        for name, digest in self._database.execute("SELECT name, sha256 FROM earlier WHERE item_id = ''"):
            self._remove(name, digest)
        write_list(self._run, self.kind, self._database.execute(_LINES))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._run.folder).as_posix()

    def _note(self, path: Path, digest: str, item_ids: Iterable[str]) -> None:
        name = self._name(path)
        self._database.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (name, digest))
        pairs = ((name, item_id) for item_id in item_ids)
        self._database.executemany("INSERT OR IGNORE INTO made_of VALUES (?, ?)", pairs)

    def _remove(self, name: str, digest: str) -> None:
        """Unless this export has it too, or somebody has put other bytes there."""
        if not name or self._database.execute("SELECT 1 FROM files WHERE name = ?", (name,)).fetchone():
            return
        path = self._run.folder / name
        with suppress(OSError):
            if file_digest(path) == digest:
                path.unlink()
                self.removed += 1
                path.parent.rmdir()  # where it was the last


@contextmanager
def exporting(run: Run, kind: Kind) -> Iterator[Export]:
    """An export, which is whole when the block ends well.

    Raises:
        NotNow: another of its kind is under way, or the disk for temporary files is full.
        JobError: it cannot be written.
    """
    with locked(run.folder / f"export-{kind}.lock") as free, scratch(_SCHEMA) as database:
        if not free:
            raise NotNow(f"another export of {kind} is under way in this folder: wait, or stop it")
        export = Export(run, kind, database)
        yield export
        export.end()
