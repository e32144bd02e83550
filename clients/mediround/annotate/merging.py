"""An index's many small parts made few large ones, in which each item stands once.

A merged file says in its metadata which parts it stands for: parts that a killed run left lying beside it are
removed when it is found. Knows the index and the ledger. Does not know runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mediround.annotate.index import WRITING, parts, read_part, write_file
from mediround.annotate.ledger import Ledger
from mediround.annotate.rows import SCHEMA

ROWS_AT_LEAST = 100_000
"""Of a merged file, but the last."""
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
    """Merge what is not merged, and what is out of date. Raises JobError; the index is then as good as before."""
    for group in _groups(index, ledger):
        into = write_file(index, _MERGED, partial(_write, group, ledger))
        ledger.merged(into, [path.name for path in group])
        for path in group:
            path.unlink(missing_ok=True)


def _write(group: Sequence[Path], ledger: Ledger, path: Path) -> None:
    schema = SCHEMA.with_metadata({_REPLACES: json.dumps([part.name for part in group]).encode()})
    with pq.ParquetWriter(path, schema, **WRITING) as writer:
        for found in _gathered(_current(part, ledger) for part in group):
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
    group: list[Path] = []
    rows = 0
    for path in parts(index):
        if path.name.startswith(_MERGED) and not _outdated(path, ledger):
            continue
        group.append(path)
        rows += pq.read_metadata(path).num_rows
        if rows >= ROWS_AT_LEAST:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _outdated(path: Path, ledger: Ledger) -> bool:
    held = pc.count_distinct(read_part(path, ["item_id"])["item_id"]).as_py()
    return bool(held != len(ledger.current(path.name)))


def _current(path: Path, ledger: Ledger) -> pa.Table:
    found = read_part(path)
    return found.filter(pc.is_in(found["item_id"], pa.array(sorted(ledger.current(path.name)), pa.string())))


def replaced(path: Path) -> list[str]:
    """Names of the parts that a file stands for; none for a part."""
    held = (pq.read_schema(path).metadata or {}).get(_REPLACES, b"[]")
    return [name for name in json.loads(held) if name == Path(name).name]
