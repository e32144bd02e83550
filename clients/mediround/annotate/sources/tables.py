"""Tables of images: CSV, JSON lines and Parquet, a row an image.

Knows the forms; every value becomes text. Does not know what columns mean, but for a frame's number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mediround.annotate.errors import ItemError, SourceError

_MAX_LINE = 16 << 20
_ROWS = 1000
_MOST_DIGITS = 6


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Its rows. Raises SourceError: it is not in the form that its name says, or has no column ``image``."""
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    try:
        for row in readers[path.suffix](path):
            yield {name: _text(value) for name, value in row.items() if value is not None}
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise SourceError(
            f"the table cannot be read ({type(error).__name__}): it must be UTF-8 {path.suffix}"
        ) from error


def frame_of(row: dict[str, str]) -> int | None:
    """Raises ItemError."""
    text = row.get("frame", "")
    if not text:
        return None
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < 1:
        raise ItemError("BAD_FRAME", "frame must be a number from 1")
    return int(text)


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if "image" not in (reader.fieldnames or ()):
            raise SourceError("the table must have a column named image")
        for row in reader:
            yield {name: value or None for name, value in row.items() if isinstance(name, str)}


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise SourceError(f"line {number} must hold at most {_MAX_LINE >> 20} MiB")
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                raise SourceError(f"line {number} must be a JSON object") from None
            if not isinstance(found, dict):
                raise SourceError(f"line {number} must be a JSON object")
            yield found


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        if "image" not in file.schema_arrow.names:
            raise SourceError("the table must have a column named image")
        wanted = [name for name in file.schema_arrow.names if name in _COLUMNS]
        for batch in file.iter_batches(_ROWS, columns=wanted):
            yield from batch.to_pylist()


_COLUMNS = {"id", "image", "frame", "window", "template", "dialogue"} | {
    *("round", "question", "name", "label", "answer", "mode", "reference", "segment", "truth")
}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
