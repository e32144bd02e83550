"""The manifest: a source's items, frozen in one Parquet file before anything is asked.

Knows the file's form, and how it is written whole and read in pieces. Does not know sources or the service.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mediround.annotate.errors import JobError
from mediround.annotate.files import atomic, file_digest
from mediround.annotate.items import Item, ItemKind, dialogue_json, questions_of

ITEMS_AT_ONCE = 1000
"""Of a row group: what is held in memory."""
_COUNTED_AT_ONCE = 100_000

Wanted: TypeAlias = Callable[[list[str]], Collection[str]]
"""Of these names, those that are wanted."""

_UNREADABLE = (OSError, pa.ArrowException, ValueError, TypeError, KeyError)
_REPEATED = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("kind", _REPEATED, nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("frame", pa.int32()),
        pa.field("window", _REPEATED, nullable=False),
        pa.field("study", _REPEATED, nullable=False),
        pa.field("series", _REPEATED, nullable=False),
        pa.field("instance", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("rounds", pa.int32(), nullable=False),
        pa.field("dialogue", _REPEATED, nullable=False),
    ]
)
"""One row an item; ``dialogue`` is JSON (``items.dialogue_json``)."""


_PLAIN = tuple(each.name for each in fields(Item) if each.name != "questions")


def write_manifest(path: Path, items: Iterable[Item]) -> int:
    """Freeze items in their order; how many there are. An earlier manifest is replaced once the new one is whole.

    Raises:
        JobError: the file cannot be written.
    """
    count = 0
    with atomic(path) as unfinished, pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
        for piece in _pieces(items):
            writer.write_table(pa.Table.from_pylist([row_of(item) for item in piece], SCHEMA))
            count += len(piece)
    return count


def read_manifest(
    path: Path, wanted: Wanted | None = None, pieces: Collection[int] | None = None
) -> Iterator[list[Item]]:
    """Its items in pieces of at most ``ITEMS_AT_ONCE``, in its order; of a piece without any, nothing.

    Args:
        wanted: which of a piece's names are to be read; the others cost next to nothing. None: all.
        pieces: which pieces, from 0, in the order of ``read_names``; the others cost nothing. None: all.

    Raises:
        JobError: it cannot be read.
    """
    for found in _chosen(path, wanted, pieces):
        try:
            items = items_of(found)
        except _UNREADABLE as error:
            raise _unreadable(error) from error
        yield items


def copy_manifest(path: Path, into: Path, wanted: Wanted, pieces: Collection[int] | None = None) -> int:
    """Write those of its items that are wanted, as ``read_manifest`` reads them; how many. Raises JobError."""
    count = 0
    with atomic(into) as unfinished, pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
        for found in _chosen(path, wanted, pieces):
            writer.write_table(found)
            count += found.num_rows
    return count


def _chosen(path: Path, wanted: Wanted | None, pieces: Collection[int] | None) -> Iterator[pa.Table]:
    """Never an empty one."""
    for file, number, names in _row_groups(path, pieces):
        chosen = set(names if wanted is None else wanted(names))
        if not chosen:
            continue
        try:
            rows = file.read_row_group(number)
        except _UNREADABLE as error:
            raise _unreadable(error) from error
        yield rows.filter(pa.array([name in chosen for name in names]))


def items_of(rows: pa.Table) -> list[Item]:
    """Of rows of a manifest. Raises ValueError, TypeError or KeyError for others."""
    return [item_of(row) for row in rows.to_pylist()]


def read_names(path: Path, pieces: Collection[int] | None = None) -> Iterator[list[str]]:
    """Its items' names in the same pieces; ``pieces``: of which alone. Raises JobError."""
    for _, _, names in _row_groups(path, pieces):
        yield names


def count_items(path: Path) -> int:
    """How many items it holds, from its footer. Raises JobError."""
    try:
        with pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow)
            return int(file.metadata.num_rows)
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def count_asked(path: Path) -> int:
    """How many of its items have no problem. Raises JobError."""
    try:
        with pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow)
            batches = file.iter_batches(_COUNTED_AT_ONCE, columns=["problem"])
            return sum(int(pc.sum(pc.equal(batch["problem"], "")).as_py() or 0) for batch in batches)
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def digest(path: Path) -> str:
    """SHA-256 of the file, hex. Raises JobError."""
    try:
        return file_digest(path)
    except OSError as error:
        raise JobError(f"the manifest cannot be read ({error.strerror}): plan the job first") from error


def _row_groups(
    path: Path, pieces: Collection[int] | None = None
) -> Iterator[tuple[pq.ParquetFile, int, list[str]]]:
    try:
        with pq.ParquetFile(path) as file:
            _check(path, file.schema_arrow)
            for number in range(file.num_row_groups) if pieces is None else sorted(pieces):
                yield file, number, file.read_row_group(number, ["item_id"])["item_id"].to_pylist()
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> JobError:
    return JobError(f"the manifest cannot be read ({type(error).__name__}): plan the job again")


def _pieces(items: Iterable[Item]) -> Iterator[list[Item]]:
    left = iter(items)
    while piece := list(islice(left, ITEMS_AT_ONCE)):
        yield piece


def _check(path: Path, found: pa.Schema) -> None:
    if not found.equals(SCHEMA):
        raise JobError(f"{path.name}: is no manifest of this version: plan the job again")


def row_of(item: Item) -> dict[str, object]:
    """An item as a row of ``SCHEMA``."""
    values = {name: getattr(item, name) for name in _PLAIN}
    return values | {"rounds": len(item.questions), "dialogue": dialogue_json(item.questions)}


def item_of(row: dict[str, object]) -> Item:
    """The reverse. Raises ValueError, TypeError or KeyError for what ``row_of`` did not make."""
    values = dict(row)
    del values["rounds"]
    questions = questions_of(str(values.pop("dialogue")))
    kind = cast(ItemKind, values.pop("kind"))
    return Item(kind=kind, questions=questions, **values)  # type: ignore[arg-type]  # columns of SCHEMA
