"""The rows that count: of each item its latest, and of one that has a result never those of a failure.

Items come one after the other, whole, so that memory stays flat: which file an item counts in is kept in a scratch
database in the folder for temporary files. Knows an index's files. Does not know what the rows are for.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mediround.annotate.errors import JobError
from mediround.annotate.index import steady, tree, whole
from mediround.annotate.job import Run
from mediround.annotate.merging import replaced
from mediround.annotate.rows import SCHEMA, Row, rows_of
from mediround.annotate.sorting import scratch

T = TypeVar("T")
ItemRows: TypeAlias = tuple[Row, ...]
"""All rows of one item, at least one, in their order."""

_ROWS_AT_ONCE = 1024
_PLACES = "CREATE TABLE places (item_id TEXT PRIMARY KEY, ok INTEGER, file INTEGER) WITHOUT ROWID"
_PLACE = """
INSERT INTO places VALUES (?, ?, ?) ON CONFLICT (item_id) DO UPDATE SET ok = excluded.ok, file = excluded.file
    WHERE excluded.ok OR NOT places.ok
"""


def files(run: Run) -> list[Path]:
    """A run's files, its shards' too, the earliest first; not those that a merged one stands for."""
    there = tree(run.index)
    gone = {(path.parent, name) for path in there for name in _replaced(path)}
    return sorted((path for path in there if (path.parent, path.name) not in gone), key=lambda path: path.name)


def item_rows(path: Path, wanted: Container[str] | None = None) -> Iterator[ItemRows]:
    """One file's items, each with its rows; ``wanted`` as in ``current_rows``.

    Raises:
        JobError: the file is cut off, damaged, or none of ours.
    """
    rows = (row for batch in _batches(path) for row in rows_of(_of(batch, wanted)))
    for _, item in groupby(_guarded(path, rows), lambda row: row.item_id):
        yield tuple(item)


def current_rows(run: Run, wanted: Container[str] | None = None) -> Iterator[ItemRows]:
    """The items of a run, each once, with the rows that count.

    Args:
        wanted: names of the items that are to be read; the others cost little. None: all.

    Raises:
        JobError: a file cannot be read, or the folder for temporary files is full.
    """
    with steady(run.index), scratch(_PLACES) as database:
        there = files(run)
        for number, path in enumerate(there):
            names = ((name, status != "failed", number) for name, status in _names(path))
            database.executemany(_PLACE, names)
        for number, path in enumerate(there):
            for rows in item_rows(path, wanted):
                words = "SELECT file FROM places WHERE item_id = ?"
                if database.execute(words, (rows[0].item_id,)).fetchone() == (number,):
                    yield rows


def _names(path: Path) -> Iterator[tuple[str, str]]:
    """Each item's name and its first row's status."""
    rows = (
        row
        for batch in _batches(path, ("item_id", "status"))
        for row in zip(batch["item_id"].to_pylist(), batch["status"].to_pylist(), strict=True)
    )
    for _, item in groupby(_guarded(path, rows), lambda row: row[0]):
        yield next(item)


def _of(batch: pa.Table, wanted: Container[str] | None) -> pa.Table:
    if wanted is None:
        return batch
    return batch.filter(pa.array([name in wanted for name in batch["item_id"].to_pylist()], pa.bool_()))


def _batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if not file.schema_arrow.equals(SCHEMA):
            raise JobError(f"{path.name}: is no index of this version; move it away, and its items run again")
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=None if columns is None else list(columns)):
            yield pa.Table.from_batches([batch])


def _guarded(path: Path, rows: Iterator[T]) -> Iterator[T]:
    with whole(path):
        yield from rows


def _replaced(path: Path) -> list[str]:
    try:
        return replaced(path)
    except JobError:
        return []  # whoever reads its rows is told
