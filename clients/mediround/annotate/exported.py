"""The list of an export's files: what each held when it was written, and of which items' results it was made.

    RUN/exports/KIND-DIGEST.parquet   a row for each file and item of which it was made; without an item for a file
                                      that is of none in particular, without a file for an item that has none

Knows lists, and where files of each kind lie. Does not know what files hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from mediround.annotate.errors import JobError
from mediround.annotate.files import is_as_named, write_named
from mediround.annotate.index import WRITING
from mediround.annotate.job import Run
from mediround.annotate.rows import Row

Kind: TypeAlias = Literal["png", "coco", "labels", "seg"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PLACES: dict[Kind, str] = {"png": "masks", "coco": "coco.json", "labels": "labels", "seg": "seg"}
"""Within a run's folder: a folder of nothing else, or one file."""
NAMES_IMAGES: tuple[Kind, ...] = ("coco",)
"""Their files say where images lie: they are out of date, too, when one has moved."""
_LISTS = "exports"
_TEXT = pa.string()
_SCHEMA = pa.schema(
    [
        pa.field("file", pa.dictionary(pa.int32(), _TEXT)),
        pa.field("sha256", pa.dictionary(pa.int32(), _TEXT)),
        pa.field("item_id", _TEXT),
        pa.field("state", _TEXT),
    ]
)
_RUN = b"mediround.run"
_ROWS_AT_ONCE = 10_000

Line: TypeAlias = tuple[str | None, str | None, str | None, str | None]
"""File, its SHA-256, item, and the state of the item's results."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as it was written.

    Attributes:
        name: below the run's folder; empty: of items that have no file.
        sha256: hex.
        items: of which it was made, each with the ``state`` that its results had. To be read before the next file.
    """

    name: str
    sha256: str
    items: Iterator[tuple[str, str]]


def state(rows: Sequence[Row]) -> str:
    """Names all that an export takes of an item's results."""
    values = [
        [row.round, row.status, row.name, row.label, row.mask_digest, row.score, row.corrected, row.engine_digest]
        for row in rows
    ]
    return blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def placed(of_rows: str, uri: str) -> str:
    """A ``state`` of results on an image that lies there."""
    return blake2b(f"{of_rows} {uri}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def write_list(run: Run, kind: Kind, lines: Iterable[Line]) -> Path:
    """Keep the list of an export that is all written, in place of an earlier one's; lines of a file must stand
    together. Raises JobError.
    """
    schema = _SCHEMA.with_metadata({_RUN: run.key.encode()})

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, **WRITING) as writer:
            for batch in _batches(lines):
                columns = [pa.array(column, _TEXT) for column in zip(*batch, strict=True)]
                found = pa.table(columns, names=_SCHEMA.names)
                writer.write_table(found.cast(schema))

    written = write_named(run.folder / _LISTS / f"{kind}.parquet", write)
    for path in lists(run, kind):
        if path != written:
            path.unlink(missing_ok=True)
    return written


def lists(run: Run, kind: Kind) -> list[Path]:
    """An export's list: none where there was no export, several where one was killed as it ended."""
    return sorted((run.folder / _LISTS).glob(f"{kind}-*.parquet"))


def read_list(path: Path, run: Run, kind: Kind) -> Iterator[ListedFile]:
    """Raises JobError: it is cut off, damaged, another run's, or names a file that is none of the export's."""
    try:
        if not is_as_named(path):
            raise JobError(f"{path.name}: holds other bytes than were written; export again")
        for (name, sha256), lines in groupby(_lines(path, run), lambda line: (line[0], line[1])):
            if name is not None:
                _check_place(name, kind)
            items = ((item, was or "") for _, _, item, was in lines if item is not None)
            yield ListedFile(name or "", sha256 or "", items)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise JobError(f"{path.name}: is cut off or damaged; export again") from error


def _lines(path: Path, run: Run) -> Iterator[Line]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if not file.schema_arrow.equals(_SCHEMA):
            raise JobError(f"{path.name}: is no list of this version; export again")
        if (file.schema_arrow.metadata or {}).get(_RUN) != run.key.encode():
            raise JobError(f"{path.name}: is of another run; export again")
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            columns = [batch.column(name).to_pylist() for name in _SCHEMA.names]
            yield from zip(*columns, strict=True)


def _check_place(name: str, kind: Kind) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.is_relative_to(PLACES[kind]):
        raise JobError("a list names a file that is none of its export's; export again")


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    held: list[Line] = []
    for line in lines:
        held.append(line)
        if len(held) == _ROWS_AT_ONCE:
            yield held
            held = []
    if held:
        yield held
