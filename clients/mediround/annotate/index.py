"""The index: what is found, as Parquet files of which each is there whole or not at all.

A run writes ``part-*.parquet``, each the rows of some finished items. An item may stand in several parts: its
latest rows count, and rows of an item that did not fail before those of one that did. Knows the folder and the
rows. Does not know who finishes items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mediround.annotate.errors import JobError
from mediround.annotate.files import locked, write_named
from mediround.annotate.rows import SCHEMA, Row, table

PATTERN = "*.parquet"
_LOCK = "reading.lock"
WRITING = {"compression": "zstd", "write_page_checksum": True}
"""How its files are written: a byte that changes is found when a page is read."""


def write_part(index: Path, rows: Sequence[Row]) -> Path:
    """Keep the rows of finished items, all of each item's. On disk when it returns.

    Raises:
        JobError: it cannot be written.
    """
    return write_file(index, "part", lambda path: pq.write_table(table(rows), path, **WRITING))


def write_file(index: Path, kind: str, write: Callable[[Path], object]) -> Path:
    """A file of an index that ``write`` writes, by ``WRITING``, to the path it is given. Raises JobError."""
    return write_named(index / f"{kind}-{time.time_ns():020d}.parquet", write)


def parts(index: Path) -> list[Path]:
    """The files of an index, the earliest first."""
    return sorted(index.glob(PATTERN))


def tree(index: Path) -> list[Path]:
    """The files of an index and of its shards', the earliest first."""
    return sorted(index.rglob(PATTERN), key=lambda path: path.name)


@contextmanager
def steady(index: Path) -> Iterator[None]:
    """Nothing is merged while the block reads, here or in the shards' folders below."""
    with ExitStack() as locks:
        for folder in (index, *index.glob("shard-*/")):
            with suppress(JobError):  # in a folder that cannot be written nobody merges
                locks.enter_context(locked(folder / _LOCK, shared=True, wait=True))
        yield


def unread(index: Path) -> AbstractContextManager[bool]:
    """Whether nobody reads it; who begins while the block runs waits. Raises JobError."""
    return locked(index / _LOCK)


def read_parts(index: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[Path, pa.Table]]:
    """Each file and its rows, the earliest first; ``columns``: of ``rows.SCHEMA``, all by default.

    Raises:
        JobError: a file is cut off, damaged, or none of ours.
    """
    for path in parts(index):
        yield path, read_part(path, columns)


def finished_since(index: Path, began: datetime, wanted: Container[str]) -> set[str]:
    """Those of these items that were finished since then; by this clock and those of who wrote their rows.

    Raises:
        JobError: a file is cut off, damaged, or none of ours.
    """
    found: set[str] = set()
    written = f"{int(began.timestamp() * 1e9):020d}"
    with steady(index):
        for path in parts(index):
            if path.name.partition("-")[2] >= written:  # a file's name says when; a merged one's rows may be older
                rows = read_part(path, ("item_id", "finished")).to_pylist()
                found |= {row["item_id"] for row in rows if row["finished"] >= began and row["item_id"] in wanted}
    return found


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One file's rows. Raises JobError: it is cut off, damaged, or none of ours."""
    with whole(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        if not file.schema_arrow.equals(SCHEMA):
            raise JobError(f"{path.name}: is no index of this version; move it away, and its items run again")
        return file.read(None if columns is None else list(columns))


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Around what reads one file. Raises JobError: it is cut off or damaged."""
    try:
        yield
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        words = f"{path.name}: is cut off or damaged; move it away, and its items run again"
        raise JobError(words) from error
