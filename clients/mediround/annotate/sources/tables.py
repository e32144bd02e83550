"""Tables of images: CSV, JSON lines and Parquet, a row an image or a question.

Knows the forms and the columns' names; every value becomes text. Does not know what columns mean, but for a
frame's number.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from datetime import date, time
from decimal import Decimal
from math import isnan
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from mediround.annotate.errors import ItemError, SourceError

FAULT = "fault"
"""In place of a column: what is wrong with a row, in words."""
_NUMBERS = frozenset({"frame", "round", "reference", "segment"})
"""Columns of whole numbers, which programs write as fractions (1.0) where rows have none."""
_COLUMNS = _NUMBERS | {"id", "image", "window", "template", "dialogue"} | {
    *("question", "name", "label", "answer", "mode", "truth")
}  # fmt: skip
_WRITTEN_SO = re.compile(r"([0-9]+)\.0+")
_MAX_LINE = 16 << 20
_ROWS = 1000
_MOST_DIGITS = 6


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Its rows; of one that cannot be a row, ``FAULT`` says why.

    Raises:
        SourceError: it is not in the form that its name says, or has no column ``image``.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    try:
        yield from readers[path.suffix](path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
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


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader, begins = csv.reader(file, strict=True), 1
        try:
            names = _checked(next(reader, []))
            begins = reader.line_num + 1
            for values in reader:
                begins = reader.line_num + 1
                if values:
                    yield _of_csv(names, values)
        except csv.Error as error:
            words = f"the row that begins in line {begins} cannot be read ({error})"
            raise SourceError(f"{words}: a quote must end its value, and stand twice within it") from error


def _of_csv(names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    row = {name: value for name, value in zip(names, values, strict=False) if value and name in _COLUMNS}
    for name in _NUMBERS & row.keys():
        row[name] = _WRITTEN_SO.sub(r"\1", row[name])
    if len(values) > len(names):
        row[FAULT] = "the row has more columns than the header: a comma within a value must stand in quotes"
    return row


def _jsonl(path: Path) -> Iterator[dict[str, str]]:
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
            yield _of_json(found)


def _of_json(found: dict[str, Any]) -> dict[str, str]:
    row = {}
    for name, value in found.items():
        try:
            row[name] = _text(name, value) if name in _COLUMNS else ""
        except (TypeError, RecursionError):
            row[FAULT] = f"{name} must be text or a number"
    return {name: value for name, value in row.items() if value}


def _parquet(path: Path) -> Iterator[dict[str, str]]:
    with pq.ParquetFile(path) as file:
        wanted = [name for name in _checked(file.schema_arrow.names) if name in _COLUMNS]
        for batch in file.iter_batches(_ROWS, columns=wanted):
            names = batch.schema.names
            columns = [_texts(name, column) for name, column in zip(names, batch.columns, strict=True)]
            for values in zip(*columns, strict=True):
                yield {name: value for name, value in zip(names, values, strict=True) if value}


def _texts(name: str, column: pa.Array) -> list[str]:
    try:
        return [_text(name, value) for value in column.to_pylist()]
    except (TypeError, ValueError, OverflowError) as error:  # the others: a time that Python has no value for
        words = f"the column {name} must hold text or numbers: write its {column.type} as text"
        raise SourceError(words) from error


def _checked(names: Sequence[str]) -> Sequence[str]:
    if "image" not in names:
        raise SourceError("the table must have a column named image")
    if twice := sorted(name for name in _COLUMNS if names.count(name) > 1):
        raise SourceError(f"the table must have one column named {twice[0]}")
    return names


def _text(name: str, value: object) -> str:
    """Empty: there is none. Raises TypeError: it is neither text nor a number, nor what is written as such."""
    if value is None or (isinstance(value, float | Decimal) and isnan(value)):  # so gaps are written, too
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float | Decimal) and name in _NUMBERS:
        return _WRITTEN_SO.sub(r"\1", str(value))
    if isinstance(value, Decimal | date | time | UUID):
        return str(value)
    if isinstance(value, int | float) or (name == "dialogue" and isinstance(value, list | dict)):
        return json.dumps(value)
    raise TypeError
