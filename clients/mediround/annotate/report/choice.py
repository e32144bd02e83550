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
from mediround.annotate.job import Job, Run
from mediround.annotate.planned import planned
from mediround.annotate.report.contact_sheet import DATA_BYTES, entry_bytes
from mediround.annotate.sorting import Names, scratch

_SCHEMA = "CREATE TABLE apart (item_id TEXT PRIMARY KEY, value REAL) WITHOUT ROWID"


@dataclass(frozen=True, slots=True)
class Choice:
    """Items to show.

    Attributes:
        count: planned items that have rows.
        not_planned: items that have rows, and that the manifest has not (any more).
        shown: those to show, by name, with their disagreement; None: not compared.
    """

    count: int
    not_planned: int
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


def choice(job: Job, run: Run, most: int, apart: Disagreements) -> Choice:
    """At most ``most`` items of the manifest, and fewer where their data would not fit a page. Raises JobError."""
    count = not_planned = 0

    def ranked(names: Names) -> Iterator[tuple[bool, float, str, int]]:
        nonlocal count, not_planned
        for rows in current_rows(run):
            if rows[0].item_id not in names:
                not_planned += 1
                continue
            count += 1
            rank = apart.of(rows[0].item_id)
            if rank is None:
                scores = [row.score for row in rows if row.score is not None and math.isfinite(row.score)]
                rank = 1 - min(scores, default=1.0)
            yield rows[0].status == "failed", rank, rows[0].item_id, entry_bytes(rows)

    shown: dict[str, float | None] = {}
    left = DATA_BYTES
    with planned(job) as names:
        chosen = heapq.nlargest(most, ranked(names))
    for _, _, name, size in chosen:
        left -= size
        if left < 0:
            break
        shown[name] = apart.of(name)
    return Choice(count, not_planned, shown)
