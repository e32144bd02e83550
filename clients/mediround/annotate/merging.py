"""An index's many small parts made few large ones, in which each item stands once.

A merged file says in its metadata which parts it stands for: parts that a killed run left lying beside it are
removed when it is found. Knows the index and the ledger. Does not know runs.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mediround.annotate.index import WRITING, parts, read_part, unread, whole, write_file
from mediround.annotate.ledger import Ledger
from mediround.annotate.rows import SCHEMA, Row

ROWS_AT_LEAST = 20_000
"""Of a merged file, but the last: as many items, at most, are held by name while it is made."""
PARTS_AT_MOST = 512
"""That lie unmerged while a run is at work."""
_COUNTED = 10_000
"""Merged files whose items are not counted again."""
_ROWS_A_GROUP = 10_000
"""Held in memory while files are merged; what a reader takes in at once."""
_REPLACES = b"mediround.replaces"
_MERGED = "merged"


def settle(index: Path) -> None:
    """Remove parts that a merged file stands for: what a run that was killed between the two left. To be called
    before the ledger looks at the index. Raises JobError.
    """
    for path in parts(index):
        if path.name.startswith(_MERGED):
            for name in replaced(path):
                (index / name).unlink(missing_ok=True)


def merge(index: Path, ledger: Ledger) -> None:
    """Merge what is not merged, what is out of date, and small files. Others may add parts meanwhile.

    Raises:
        JobError: the index is then as good as before.
    """
    with unread(index) as nobody_reads:
        if not nobody_reads:
            return  # the next time
        for group in _groups(index, ledger):
            items: list[str] = []
            into = write_file(index, _MERGED, partial(_write, group, ledger, items))
            ledger.merged(into, [path.name for path in group], items)
            for path in group:
                path.unlink(missing_ok=True)
    _give_back()


def _give_back() -> None:
    """Give the system the memory that Arrow and the C library hold for later: in a run of days it would add up."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


class Merging:
    """Notes parts in a ledger, and merges them whenever there are many: a run of days leaves few files, too."""

    def __init__(self, index: Path, ledger: Ledger) -> None:
        self._index, self._ledger = index, ledger
        self._loose = sum(not path.name.startswith(_MERGED) for path in parts(index))

    def add(self, part: Path, rows: Sequence[Row]) -> None:
        """Raises JobError: it cannot be written."""
        self._ledger.add(part, rows)
        self.came(1)

    def came(self, parts: int) -> None:
        """So many parts are new in the ledger. Raises JobError."""
        self._loose += parts
        if self._loose >= PARTS_AT_MOST:
            self._loose = 0
            merge(self._index, self._ledger)


def _write(group: Sequence[Path], ledger: Ledger, items: list[str], path: Path) -> None:
    """``items`` gets the names of those that are written."""
    schema = SCHEMA.with_metadata({_REPLACES: json.dumps([part.name for part in group]).encode()})
    with pq.ParquetWriter(path, schema, **WRITING) as writer:
        for found in _gathered(_current(part, ledger, items) for part in group):
            writer.write_table(found.cast(schema))


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables that are worth a row group each."""
    held: list[pa.Table] = []
    for found in tables:
        held.append(found)
        if sum(each.num_rows for each in held) >= _ROWS_A_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _groups(index: Path, ledger: Ledger) -> Iterator[Sequence[Path]]:
    """Files that become one, of those that the ledger knows: what it does not know was just written by another."""
    group: list[Path] = []
    rows, count = 0, ledger.sizes()
    for path in parts(index):
        if path.name not in count:
            continue
        with whole(path):
            size = pq.read_metadata(path).num_rows
        if path.name.startswith(_MERGED) and size >= ROWS_AT_LEAST // 2 and not _outdated(path, count[path.name]):
            continue
        group.append(path)
        rows += size
        if rows >= ROWS_AT_LEAST:
            yield group
            group, rows = [], 0
    if len(group) == 1 and group[0].name.startswith(_MERGED) and not _outdated(group[0], count[group[0].name]):
        return  # alone, it is as it must be
    if group:
        yield group


def _outdated(path: Path, count: int) -> bool:
    """``count``: of the items whose rows count in it."""
    return _items_in(path) != count


@lru_cache(_COUNTED)
def _items_in(path: Path) -> int:
    """Of a merged file, which is named by its content: a run's merges look at all that came before."""
    return int(pc.count_distinct(read_part(path, ["item_id"])["item_id"]).as_py())


def _current(path: Path, ledger: Ledger, items: list[str]) -> pa.Table:
    found = read_part(path)
    names = found["item_id"].unique().to_pylist()
    places = ledger.places(names)
    here = [name for name in names if places.get(name) == path.name]
    items += here
    return (
        found if len(here) == len(names) else found.filter(pc.is_in(found["item_id"], pa.array(here, pa.string())))
    )


def replaced(path: Path) -> list[str]:
    """Names of the parts that a file stands for; none for a part. Raises JobError: it is cut off or damaged."""
    with whole(path):
        held = (pq.read_schema(path).metadata or {}).get(_REPLACES, b"[]")
        return [name for name in json.loads(held) if name == Path(name).name]
