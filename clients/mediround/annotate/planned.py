"""Which items are planned: the manifest's names in a scratch database, so that memory stays flat.

Knows names. Does not know why it is asked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from mediround.annotate.job import Job
from mediround.annotate.manifest import read_names
from mediround.annotate.sorting import scratch

_SCHEMA = "CREATE TABLE planned (item_id TEXT PRIMARY KEY) WITHOUT ROWID"


class Planned:
    """Names of the manifest's items, each once. Made by ``planned``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM planned").fetchone()
        return int(count)

    def __contains__(self, name: object) -> bool:
        words = "SELECT 1 FROM planned WHERE item_id = ?"
        return self._database.execute(words, (name,)).fetchone() is not None


@contextmanager
def planned(job: Job) -> Iterator[Planned]:
    """While the block runs. Raises JobError: the manifest cannot be read, or the disk is full."""
    with scratch(_SCHEMA) as database:
        for names in read_names(job.manifest):
            database.executemany("INSERT OR IGNORE INTO planned VALUES (?)", ((name,) for name in names))
        yield Planned(database)
