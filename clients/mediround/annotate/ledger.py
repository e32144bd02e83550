"""The ledger: which items are finished, and in which part of the index, for a quick resume.

The index is the truth: what a part holds and the ledger does not know is taken up when it is opened, and a ledger
that is lost or damaged is made again. Knows SQLite and the index. Does not know how items are finished.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mediround.annotate import index
from mediround.annotate.errors import JobError, NotNow
from mediround.annotate.files import locked
from mediround.annotate.job import Run
from mediround.annotate.rows import Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    item_id TEXT PRIMARY KEY, ok INTEGER NOT NULL, code TEXT NOT NULL, rounds INTEGER NOT NULL, part TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_KEEP = """
INSERT INTO items VALUES (?, ?, ?, ?, ?) ON CONFLICT (item_id) DO UPDATE SET
    ok = excluded.ok, code = excluded.code, rounds = excluded.rounds, part = excluded.part
    WHERE excluded.ok OR NOT items.ok
"""
"""The latest counts, but a failure never stands for a result."""
_COLUMNS = ("item_id", "status", "error_code", "rounds")
_CACHE_KIB = 16 << 10
"""Of the database in memory: names are digests, so that each look is at another place of it."""
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_VALUES_AT_ONCE = 1000
"""In one statement: SQLite takes 32,766, or as many as it was built for."""
_SUMMED = "SELECT COUNT(*), COALESCE(SUM(ok), 0) FROM items"


@dataclass(frozen=True, slots=True)
class Finished:
    """How many items are finished.

    Attributes:
        ok: with a result.
        failed: without one.
    """

    ok: int
    failed: int

    @property
    def all(self) -> int:
        return self.ok + self.failed


@dataclass(frozen=True, slots=True)
class TakenUp:
    """What parts said that were new.

    Attributes:
        parts: how many.
        finished: items in them.
        rounds: of the items with a result.
    """

    parts: int
    finished: Finished
    rounds: int


class Ledger:
    """One run's, or one shard's. Of one thread at a time."""

    def __init__(self, database: sqlite3.Connection, folders: Sequence[Path]) -> None:
        self._database, self._folders = database, folders

    def take_up(self) -> TakenUp:
        """Learn of parts that it does not know, and forget those that are gone.

        Raises:
            JobError: a part cannot be read.
        """
        known = self.parts()
        there = {path.name: path for folder in self._folders for path in index.parts(folder)}
        new = self._learn(there[name] for name in sorted(there.keys() - known))
        if (gone := known - there.keys()) and self._forget(gone):
            # A part that is left may hold an item whose latest rows were lost.
            self._learn(there[name] for name in sorted(there))
        return new

    def _learn(self, parts: Iterable[Path]) -> TakenUp:
        count = ok = failed = rounds = 0
        for path in parts:
            found = index.read_part(path, _COLUMNS)
            entries = _entries(zip(*(found[name].to_pylist() for name in _COLUMNS), strict=True), path.name)
            self._add(path.name, entries)
            good = [entry for entry in entries if entry[1]]
            count, ok, failed = count + 1, ok + len(good), failed + len(entries) - len(good)
            rounds += sum(entry[3] for entry in good)
        return TakenUp(count, Finished(ok, failed), rounds)

    def add(self, part: Path, rows: Iterable[Row]) -> None:
        """Keep that these items are finished, and where their rows are."""
        values = ((row.item_id, row.status, row.error_code, row.rounds) for row in rows)
        self._add(part.name, _entries(values, part.name))

    def finished(self, item_ids: Sequence[str], *, failed: bool) -> set[str]:
        """Which of these are finished; those that failed among them only if ``failed``."""
        marks = ",".join("?" * len(item_ids))
        words = f"SELECT item_id FROM items WHERE item_id IN ({marks})"  # noqa: S608  # question marks alone
        rows = self._database.execute(words if failed else f"{words} AND ok", tuple(item_ids))
        return {item_id for (item_id,) in rows}

    def counted(self, item_ids: Sequence[str]) -> Finished:
        """How many of these are finished."""
        marks = ",".join("?" * len(item_ids))
        count, ok = self._database.execute(f"{_SUMMED} WHERE item_id IN ({marks})", tuple(item_ids)).fetchone()
        return Finished(ok, count - ok)

    def parts(self) -> set[str]:
        """Names of the parts that it knows."""
        return {name for (name,) in self._database.execute("SELECT name FROM parts")}

    def places(self, item_ids: Sequence[str]) -> dict[str, str]:
        """Names of the parts that hold the rows of these, of those that are finished."""
        found: dict[str, str] = {}
        for begin in range(0, len(item_ids), _VALUES_AT_ONCE):  # a merged file's are many
            some = tuple(item_ids[begin : begin + _VALUES_AT_ONCE])
            marks = ",".join("?" * len(some))
            words = f"SELECT item_id, part FROM items WHERE item_id IN ({marks})"  # noqa: S608  # as above
            found |= self._database.execute(words, some)
        return found

    def failures(self, item_ids: Sequence[str]) -> dict[str, int]:
        """How many of these failed, by error code."""
        marks = ",".join("?" * len(item_ids))
        words = f"SELECT code, COUNT(*) FROM items WHERE item_id IN ({marks}) AND NOT ok GROUP BY code"  # noqa: S608  # as above
        return dict(self._database.execute(words, tuple(item_ids)))

    def sizes(self) -> dict[str, int]:
        """Of each part that it knows, how many items have their rows in it that count."""
        found = dict.fromkeys(self.parts(), 0)
        return found | dict(self._database.execute("SELECT part, COUNT(*) FROM items GROUP BY part"))

    def items(self) -> Iterator[tuple[str, str, bool]]:
        """Each that is finished, the part that holds the rows of it that count, and whether it has a result."""
        for item_id, part, ok in self._database.execute("SELECT item_id, part, ok FROM items"):
            yield item_id, part, bool(ok)

    def merged(self, into: Path, parts: Sequence[str], item_ids: Sequence[str]) -> None:
        """Keep that parts were made one, in which these items' rows are."""
        try:
            with self._database:
                words = "UPDATE items SET part = ? WHERE item_id = ?"
                self._database.executemany(words, ((into.name, item_id) for item_id in item_ids))
                self._database.executemany("DELETE FROM parts WHERE name = ?", [(name,) for name in parts])
                self._database.execute("INSERT OR IGNORE INTO parts VALUES (?)", (into.name,))
        except sqlite3.OperationalError as error:
            raise _not_written(error) from error

    def _add(self, part: str, entries: Sequence[tuple[str, int, str, int, str]]) -> None:
        try:
            with self._database:
                self._database.executemany(_KEEP, entries)
                self._database.execute("INSERT OR IGNORE INTO parts VALUES (?)", (part,))
        except sqlite3.OperationalError as error:
            raise _not_written(error) from error

    def _forget(self, parts: Iterable[str]) -> int:
        """How many items were lost with them: they run again, unless another part has them too."""
        with self._database:
            self._database.execute("CREATE TEMP TABLE gone (name TEXT PRIMARY KEY) WITHOUT ROWID")
            self._database.executemany("INSERT INTO gone VALUES (?)", ((name,) for name in parts))
            self._database.execute("DELETE FROM parts WHERE name IN (SELECT name FROM gone)")
            lost = self._database.execute("DELETE FROM items WHERE part IN (SELECT name FROM gone)").rowcount
            self._database.execute("DROP TABLE gone")
        return lost


@contextmanager
def opened(run: Run, shard: str = "", *, before: Callable[[], object] = lambda: None) -> Iterator[Ledger]:
    """The ledger of a run, or of one shard of it, while the block runs; it is up to date with the index.

    Args:
        shard: ``i-of-n``; empty for a run that is not cut, which knows the shards' parts too. A shard knows those
            of the whole and of other cuts, with which it has items in common.
        before: done once nobody else is at work there, and before the index is looked at.

    Raises:
        NotNow: another run is at work there, or the disk is full.
        JobError: a part cannot be read.
    """
    path = run.ledger(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(run, shard):
        cut = _cut(shard)
        others = [folder for folder in run.shard_indices() if not shard or _cut(folder.name) != cut]
        folders = [run.index, *([run.shard_index(shard)] if shard else []), *others]
        before()
        database = _connected(path)
        try:
            ledger = Ledger(database, folders)
            ledger.take_up()
            yield ledger
        except sqlite3.OperationalError as error:
            raise _not_written(error) from error
        finally:
            database.close()


@contextmanager
def alone(run: Run, shard: str = "") -> Iterator[None]:
    """Nobody else begins at work there while the block runs: a run that is not cut, or a plan, has the whole, a
    shard its part; shards of one cut go side by side. Raises NotNow: another is at work.
    """
    with ExitStack() as locks:
        free = locks.enter_context(locked(_lock(run.ledger()), shared=bool(shard)))
        if shard and free:
            free = locks.enter_context(locked(_lock(run.ledger(shard)))) and not _cut_otherwise(run, shard)
        if not free:
            words = "another run is at work in this folder, or a plan, or another cut: wait, or stop it"
            raise NotNow(words)
        yield


def _cut_otherwise(run: Run, shard: str) -> bool:
    """Whether a shard of another cut is at work."""
    for path in run.folder.glob("ledger-*-of-*.lock"):
        if _cut(path.stem) != _cut(shard):
            with locked(path, shared=True) as free:
                if not free:
                    return True
    return False


def _cut(shard: str) -> str:
    """``n`` of a name that ends in ``i-of-n``."""
    return shard.rpartition("-")[2]


def _lock(ledger: Path) -> Path:
    return ledger.with_suffix(".lock")


@contextmanager
def looked_at(path: Path) -> Iterator[Ledger | None]:
    """A ledger as it is, beside a run that is at work with it: to be read alone. None: there is none, or it is
    damaged, and the next run makes it again.
    """
    database = None
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        database.execute("SELECT item_id, ok, code, rounds, part FROM items LIMIT 1").fetchall()
        readable = database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        readable = False
    try:
        yield Ledger(database, ()) if database and readable else None
    finally:
        if database:
            database.close()


def _connected(path: Path) -> sqlite3.Connection:
    """Open it; one that is damaged is made again from the index. Raises JobError."""
    for _ in range(2):
        database = sqlite3.connect(path, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            database.executescript(_SCHEMA)
            database.execute("SELECT item_id, ok, code, rounds, part FROM items LIMIT 1").fetchall()
            if database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                return database
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) in _FULL:
                database.close()
                raise NotNow("the ledger cannot be opened: its disk is full") from error
        database.close()
        for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            each.unlink(missing_ok=True)
    raise JobError("the ledger cannot be opened: the folder must be on a disk that locks files")


def _not_written(error: sqlite3.OperationalError) -> NotNow:
    return NotNow(f"the ledger cannot be written ({error}); what is finished stays")


def _entries(rows: Iterable[tuple[str, str, str, int]], part: str) -> list[tuple[str, int, str, int, str]]:
    """Of rows' item, status, error code and rounds: one an item, in the order in which the table lies."""
    found = {name: (name, int(status != "failed"), code, rounds, part) for name, status, code, rounds in rows}
    return sorted(found.values())
