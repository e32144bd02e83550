"""Rounds that two runs have in common, side by side.

Knows the join by item and round, and Dice. One run's rows lie in a scratch database, so that memory stays flat.
Does not sum up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import TypeAlias

import numpy as np

from mediround.annotate.current import ItemRows, current_rows, scratch
from mediround.annotate.errors import JobError
from mediround.annotate.faults import decoded
from mediround.annotate.job import Run
from mediround.annotate.rows import Row
from mediround.masks import Bits

_SCHEMA = """
CREATE TABLE sides (item_id TEXT, round INTEGER, status TEXT, score REAL, area INTEGER, height INTEGER,
    width INTEGER, counts TEXT, mask_digest TEXT, PRIMARY KEY (item_id, round)) WITHOUT ROWID
"""
_FIND = "SELECT status, score, area, height, width, counts, mask_digest FROM sides WHERE item_id = ? AND round = ?"


@dataclass(frozen=True, slots=True)
class Side:
    """What one run found in a round; as ``rows.Row``."""

    status: str
    score: float | None
    area: int
    height: int
    width: int
    counts: str | None
    mask_digest: str

    @property
    def answered(self) -> bool:
        return self.status != "failed"

    def mask(self) -> Bits | None:
        """bool (H, W). Raises JobError."""
        try:
            return decoded(self.counts, self.height, self.width)
        except ValueError as error:
            raise JobError("a mask cannot be read: `mediround annotate verify` says of which item") from error


@dataclass(frozen=True, slots=True)
class Pair:
    """One round of one item in both runs."""

    item_id: str
    image_id: str
    round: int
    label: str
    earlier: Side
    later: Side

    def dice(self) -> float | None:
        """0 to 1; None: a run has no mask, or the sizes differ. Two empty masks agree. Raises JobError."""
        one, other = self.earlier, self.later
        if one.counts is None or other.counts is None or (one.height, one.width) != (other.height, other.width):
            return None
        if one.mask_digest == other.mask_digest:
            return 1.0
        return dice(one.mask(), other.mask())


PairedItem: TypeAlias = tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Unpaired:
    """An item of the later run that the earlier one has not."""

    item_id: str


def paired(earlier: Run, later: Run) -> Iterator[PairedItem | Unpaired]:
    """The later run's items, each with all its rounds. Raises JobError."""
    try:
        with scratch(_SCHEMA) as database:
            for rows in current_rows(earlier):
                values = [(row.item_id, row.round, *astuple(_side(row))) for row in rows]
                database.executemany("INSERT OR REPLACE INTO sides VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            for rows in current_rows(later):
                yield _found(database, rows)
    except sqlite3.Error as error:
        words = f"the scratch database cannot be written ({error}): set TMPDIR to a disk with room"
        raise JobError(words) from error


def dice(one: Bits | None, other: Bits | None) -> float:
    """2 |A and B| / (|A| + |B|) of masks of one size, bool (H, W); 1 where both are empty. None is empty."""
    areas = sum(0 if mask is None else int(np.count_nonzero(mask)) for mask in (one, other))
    both = 0 if one is None or other is None else int(np.count_nonzero(one & other))
    return 2 * both / areas if areas else 1.0


def _found(database: sqlite3.Connection, rows: ItemRows) -> PairedItem | Unpaired:
    pairs = []
    for row in rows:
        found = database.execute(_FIND, (row.item_id, row.round)).fetchone()
        if found is None:
            return Unpaired(row.item_id)
        pairs.append(Pair(row.item_id, row.image_id, row.round, row.label, Side(*found), _side(row)))
    return tuple(pairs)


def _side(row: Row) -> Side:
    return Side(row.status, row.score, row.area, row.height, row.width, row.counts, row.mask_digest)
