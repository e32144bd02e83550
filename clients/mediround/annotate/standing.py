"""How far a run is, read from its index, while another process may be at work on it.

Memory stays flat: items are counted in a scratch database. Knows the index and
the manifest's names. Does not write anything of the job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mediround.annotate.current import files
from mediround.annotate.index import read_part, steady
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Finished
from mediround.annotate.manifest import read_names
from mediround.annotate.sorting import scratch

SECONDS_OF_RATE = 600.0
"""Before now, that a rate is taken over."""

_ITEMS = """
CREATE TABLE items (item_id TEXT PRIMARY KEY, ok INTEGER, code TEXT, finished REAL) WITHOUT ROWID;
CREATE TABLE planned (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_ITEM = """
INSERT INTO items VALUES (?, ?, ?, ?) ON CONFLICT (item_id) DO UPDATE SET
    ok = excluded.ok, code = excluded.code, finished = excluded.finished WHERE excluded.ok OR NOT items.ok
"""
_FAILURES = "SELECT code, COUNT(*) FROM items WHERE NOT ok GROUP BY code ORDER BY 2 DESC"


@dataclass(frozen=True, slots=True)
class Standing:
    """How many items are finished.

    Attributes:
        finished: with and without a result.
        failures: items that failed, by error code, the most first.
        rate: items a second over the last ten minutes, or since the run's first item if that is later; 0: none was
            finished since.
    """

    finished: Finished
    failures: dict[str, int]
    rate: float

    def seconds_left(self, total: int) -> float | None:
        """At this rate; None: nobody can say."""
        return (total - self.finished.all) / self.rate if self.rate else None


def standing(job: Job, run: Run) -> Standing:
    """Count the manifest's items. Raises JobError: it, or a part, cannot be read."""
    with steady(run.index), scratch(_ITEMS) as database:
        for path in files(run):
            database.executemany(_ITEM, _items(path))
        for names in read_names(job.manifest):
            database.executemany("INSERT OR IGNORE INTO planned VALUES (?)", ((name,) for name in names))
        database.execute("DELETE FROM items WHERE item_id NOT IN (SELECT item_id FROM planned)")
        count, ok = database.execute("SELECT COUNT(*), COALESCE(SUM(ok), 0) FROM items").fetchone()
        failures = dict(database.execute(_FAILURES).fetchall())
        return Standing(Finished(ok, count - ok), failures, _rate(database, datetime.now(UTC).timestamp()))


def _items(path: Path) -> Iterator[tuple[str, bool, str, float]]:
    found = read_part(path, ("item_id", "status", "error_code", "finished"))
    for batch in found.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield row["item_id"], row["status"] != "failed", row["error_code"], row["finished"].timestamp()


def _rate(database: sqlite3.Connection, now: float) -> float:
    since = now - SECONDS_OF_RATE
    words = "SELECT COUNT(*), (SELECT MIN(finished) FROM items) FROM items WHERE finished > ?"
    count, first = database.execute(words, (since,)).fetchone()
    return count / max(now - max(first, since), 1.0) if count else 0.0
