"""Rounds that two runs have in common, side by side.

Knows the join by item and round, and Dice. One run's rows lie in a scratch database, so that memory stays flat.
Does not sum up.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Literal, TypeAlias

import numpy as np

from mediround.annotate.current import ItemRows, current_rows
from mediround.annotate.errors import JobError
from mediround.annotate.faults import decoded
from mediround.annotate.job import Run
from mediround.annotate.sorting import scratch
from mediround.masks import Bits

_SCHEMA = """
CREATE TABLE sides (item_id TEXT, round INTEGER, status TEXT, score REAL, area INTEGER, height INTEGER,
    width INTEGER, counts TEXT, mask_digest TEXT, PRIMARY KEY (item_id, round)) WITHOUT ROWID;
CREATE TABLE later (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_FIND = "SELECT status, score, area, height, width, counts, mask_digest FROM sides WHERE item_id = ? AND round = ?"
_VALUES = attrgetter("status", "score", "area", "height", "width", "counts", "mask_digest")
_LEFT = "SELECT DISTINCT item_id FROM sides WHERE item_id NOT IN (SELECT item_id FROM later)"


Kind: TypeAlias = Literal["both", "earlier_only", "later_only", "other_size", "empty"]
"""Of a round: which runs have a mask; ``other_size``: both, and of different sizes; ``empty``: neither run has a
pixel, whether its mask is empty or it has none.
"""


@dataclass(frozen=True, slots=True)
class Side:
    """What one run found in a round; as ``rows.Row``, but that a score that is no number is none."""

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

    @property
    def kind(self) -> Kind:
        """What may be compared."""
        one, other = self.earlier, self.later
        two = one.counts is not None and other.counts is not None
        if two and (one.height, one.width) != (other.height, other.width):
            return "other_size"
        if not one.area and not other.area:
            return "empty"
        if two:
            return "both"
        return "later_only" if one.counts is None else "earlier_only"

    def dice(self) -> float | None:
        """0 to 1; None: ``kind`` is not ``both``. Raises JobError."""
        one, other = self.earlier, self.later
        if self.kind != "both":
            return None
        if one.mask_digest == other.mask_digest:
            return 1.0
        return dice(one.mask(), other.mask())


PairedItem: TypeAlias = tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Unpaired:
    """An item that one run has and the other has not; ``later``: the later one has it."""

    item_id: str
    later: bool


def paired(earlier: Run, later: Run, wanted: Container[str] | None = None) -> Iterator[PairedItem | Unpaired]:
    """The later run's items, each with all its rounds; then those of the earlier one alone.

    Args:
        wanted: names of the items that are to be read; None: all.

    Raises:
        JobError: a run cannot be read, or the scratch database cannot be written.
    """
    with scratch(_SCHEMA) as database:
        for rows in current_rows(earlier, wanted):
            values = [(row.item_id, row.round, *_VALUES(row)) for row in rows]
            database.executemany("INSERT OR REPLACE INTO sides VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        for rows in current_rows(later, wanted):
            database.execute("INSERT OR IGNORE INTO later VALUES (?)", (rows[0].item_id,))
            yield _found(database, rows)
        for (item_id,) in database.execute(_LEFT):
            yield Unpaired(item_id, later=False)


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
            return Unpaired(row.item_id, later=True)
        pairs.append(Pair(row.item_id, row.image_id, row.round, row.label, _side(found), _side(_VALUES(row))))
    return tuple(pairs)


def _side(values: Sequence[Any]) -> Side:
    side = Side(*values)
    return side if side.score is None or math.isfinite(side.score) else replace(side, score=None)
