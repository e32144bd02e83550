"""Which items a report shows: those that failed, then those that disagree most with another run, or score least.

Knows ranks and how much the contact sheet may hold. Does not know pages.
"""

from __future__ import annotations

import heapq
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mediround.annotate.current import current_rows
from mediround.annotate.job import Run
from mediround.annotate.report.contact_sheet import DATA_BYTES, entry_bytes
from mediround.annotate.sorting import scratch

_SCHEMA = "CREATE TABLE apart (item_id TEXT PRIMARY KEY, value REAL) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Choice:
    """Items to show.

    Attributes:
        count: items that have rows.
        shown: those to show, by name, with their disagreement; None: not compared.
    """

    count: int
    shown: dict[str, float | None]


class Disagreements:
    """How far items are from another run, on disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def hear(self, item_id: str, apart: float) -> None:
        self._database.execute("INSERT OR REPLACE INTO apart VALUES (?, ?)", (item_id, apart))

    def of(self, item_id: str) -> float | None:
        """None: not compared."""
        found = self._database.execute("SELECT value FROM apart WHERE item_id = ?", (item_id,)).fetchone()
        return None if found is None else float(found[0])


@contextmanager
def disagreements() -> Iterator[Disagreements]:
    with scratch(_SCHEMA) as database:
        yield Disagreements(database)


def choice(run: Run, most: int, apart: Disagreements) -> Choice:
    """At most ``most`` items, and fewer where their data would not fit a page. Raises JobError."""
    count = 0

    def ranked() -> Iterator[tuple[bool, float, str, int]]:
        nonlocal count
        for rows in current_rows(run):
            count += 1
            rank = apart.of(rows[0].item_id)
            if rank is None:
                scores = [row.score for row in rows if row.score is not None and math.isfinite(row.score)]
                rank = 1 - min(scores, default=1.0)
            yield rows[0].status == "failed", rank, rows[0].item_id, entry_bytes(rows)

    shown: dict[str, float | None] = {}
    left = DATA_BYTES
    for _, _, name, size in heapq.nlargest(most, ranked()):
        left -= size
        if left < 0:
            break
        shown[name] = apart.of(name)
    return Choice(count, shown)
