"""Values grouped by a key, sorted on disk, so that memory does not grow with them.

Groups come in the order in which their first value came, urgent ones before all others, values in the order in
which they came. Knows SQLite, in a temporary file. Does not know what values are.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

_SCHEMA = """
CREATE TABLE given (number INTEGER PRIMARY KEY, key TEXT NOT NULL, urgent INTEGER NOT NULL, value TEXT NOT NULL);
"""
_SORTED = """
SELECT given.key, given.value FROM given
JOIN (SELECT key, MIN(number) AS first, MAX(urgent) AS urgent FROM given GROUP BY key) AS groups USING (key)
ORDER BY groups.urgent DESC, groups.first, given.number
"""


def grouped(values: Iterable[tuple[str, bool, str]]) -> Iterator[tuple[str, str]]:
    """Key and value of each, from key, urgency and value. Raises what ``values`` raises."""
    with tempfile.TemporaryDirectory(prefix="mediround-") as folder:
        database = sqlite3.connect(Path(folder) / "sorting.sqlite", isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("PRAGMA temp_store = FILE")
            database.executescript(_SCHEMA)
            database.execute("BEGIN")
            database.executemany("INSERT INTO given (key, urgent, value) VALUES (?, ?, ?)", values)
            database.execute("COMMIT")
            yield from database.execute(_SORTED)
        finally:
            database.close()
